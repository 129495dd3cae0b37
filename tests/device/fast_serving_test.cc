// Serving a bf16 base whose heads other libraries' kernels attend to, in eager and captured steps, gives the
// log-probabilities that it gives by ours alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "bench/device_llama.h"
#include "model/ops/open_cuda.h"
#include "tests/device/device_engine.h"
#include "tests/device/test_device.h"

namespace lorad {
namespace {

constexpr bench::ModelShape kShape = {"tiny", 256, 4, 4, 2, 128, 96, true};  // a head has 64

// Of a request: of its prompt's tokens but the first, and of those it got.
struct Answer {
  std::vector<int32_t> ids;
  std::vector<float> of_prompt, of_tokens;
};

std::vector<float> Values(const std::vector<TokenLogprob>& tokens, size_t first) {
  std::vector<float> values;
  for (size_t i = first; i < tokens.size(); ++i) values.push_back(tokens[i].logprob);
  return values;
}

// Prompts of all sorts of lengths; `begin`: their first token, whatever follows.
std::vector<std::vector<int32_t>> Prompts(int32_t begin) {
  std::vector<int64_t> lengths = {20, 33, 90, 270};
  if (!TestDeviceIsEmulated()) {
    for (int64_t i = 0; i < 12; ++i) lengths.push_back(50 + 50 * i);
  }
  uint64_t drawn = 1;
  std::vector<std::vector<int32_t>> prompts;
  for (const int64_t length : lengths) {
    std::vector<int32_t>& prompt = prompts.emplace_back();
    for (int64_t i = 0; i < length; ++i) {
      drawn = drawn * 6364136223846793005u + 1442695040888963407u;
      const auto token = static_cast<int32_t>((drawn >> 33) % static_cast<uint64_t>(kShape.vocab));
      prompt.push_back(i < length / 2 ? (token + begin) % static_cast<int32_t>(kShape.vocab) : token);
    }
  }
  return prompts;
}

class FastServingTest : public testing::Test {
 protected:
  // What comes next has the device's forms as another test leaves them.
  ~FastServingTest() override { LeaveOutFastForms(); }

  std::vector<Answer> AnswersTo(const std::vector<std::vector<int32_t>>& prompts) {
    EngineSetup setup = SetupOnDevice();
    setup.pool_bytes = int64_t{64} << 20;
    setup.graphs.emplace();
    setup.engine.max_batch_tokens = 200;  // prompts in pieces, beside rows that decode
    SteppedEngine engine(&llama_.model(), llama_.folder(), setup);
    std::vector<std::shared_ptr<Recording>> recordings;
    for (const std::vector<int32_t>& prompt : prompts) {
      Request request;
      request.prompt_ids = prompt;
      request.sampling.max_tokens = 8;
      request.sampling.ignore_eos = true;
      request.sampling.temperature = 0.0f;
      request.sampling.logprobs = 0;
      request.sampling.prompt_logprobs = 0;
      recordings.push_back(engine.Submit(request));
    }
    engine.RunUntilIdle();
    EXPECT_GT(engine.parts().observer.device_steps["replayed"], 0);
    std::vector<Answer> answers;
    for (const auto& recording : recordings) {
      const Recording::Sequence& sequence = recording->sequences()[0];
      EXPECT_EQ(sequence.tokens.size(), 8u);
      Answer& answer = answers.emplace_back();
      for (const TokenLogprob& token : sequence.tokens) answer.ids.push_back(token.token_id);
      answer.of_prompt = Values(sequence.prompt_logprobs, 1);
      answer.of_tokens = Values(sequence.tokens, 0);
    }
    return answers;
  }

  bench::DeviceLlama llama_{kShape};
};

struct Differences {
  double most = 0.0, sum = 0.0;
  int64_t count = 0;

  void Add(double difference) {
    most = std::isnan(difference) ? INFINITY : std::max(most, difference);
    sum += difference;
    ++count;
  }
  double mean() const { return sum / static_cast<double>(count); }
};

// Of the second halves of the prompts, whose tokens are the same.
Differences OfPrompts(const std::vector<Answer>& a, const std::vector<Answer>& b) {
  Differences differences;
  for (size_t r = 0; r < a.size(); ++r) {
    EXPECT_EQ(a[r].of_prompt.size(), b[r].of_prompt.size());
    for (size_t i = a[r].of_prompt.size() / 2 + 1; i < a[r].of_prompt.size(); ++i) {
      differences.Add(std::abs(a[r].of_prompt[i] - b[r].of_prompt[i]));
    }
  }
  return differences;
}

// Of the tokens that decode, as long as both have the same before them.
Differences OfTokens(const std::vector<Answer>& a, const std::vector<Answer>& b) {
  Differences differences;
  for (size_t r = 0; r < a.size(); ++r) {
    for (size_t i = 0; i < a[r].ids.size(); ++i) {
      differences.Add(std::abs(a[r].of_tokens[i] - b[r].of_tokens[i]));
      if (a[r].ids[i] != b[r].ids[i]) break;
    }
  }
  return differences;
}

TEST_F(FastServingTest, FastFormsGiveTheLogProbabilitiesOfOurs) {
  LeaveOutFastForms();
  const std::vector<Answer> ours = AnswersTo(Prompts(0)), of_other_beginnings = AnswersTo(Prompts(7));
  std::vector<std::string> used;
  for (const std::string& objection : CheckFastForms(&used)) std::printf("%s\n", objection.c_str());
  EXPECT_THAT(used, testing::Contains(testing::StartsWith("attention by ")));
  const std::vector<Answer> fast = AnswersTo(Prompts(0));

  const Differences of_prompts = OfPrompts(ours, fast), of_tokens = OfTokens(ours, fast);
  const Differences of_context = OfPrompts(ours, of_other_beginnings);
  std::printf("prompts: mean %g, most %g; tokens: %lld, mean %g, most %g; other beginnings: mean %g\n",
              of_prompts.mean(), of_prompts.most, static_cast<long long>(of_tokens.count), of_tokens.mean(),
              of_tokens.most, of_context.mean());
  EXPECT_GT(of_prompts.most, 0.0);  // another form computed
  EXPECT_LT(of_prompts.most, 0.05);
  EXPECT_LT(of_prompts.mean(), 0.005);
  EXPECT_LT(of_tokens.most, 0.05);
  EXPECT_GT(of_tokens.count, static_cast<int64_t>(4 * ours.size()));
  EXPECT_GT(of_context.mean(), 0.05);  // what attention sees does count
}

}  // namespace
}  // namespace lorad
