// Serving a bf16 base whose heads other libraries' kernels attend to, in eager and captured steps, gives the
// log-probabilities that it gives by ours alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "bench/device_llama.h"
#include "bench/form_answers.h"
#include "model/ops/open_cuda.h"
#include "tests/device/device_engine.h"
#include "tests/device/test_device.h"

namespace lorad {
namespace {

using bench::FormAnswer;

constexpr bench::ModelShape kShape = {"tiny", 256, 4, 4, 2, 128, 96, true};  // a head has 64

// Prompts of all sorts of lengths; `beginning`: of their first halves.
std::vector<std::vector<int32_t>> Prompts(int32_t beginning) {
  std::vector<int64_t> lengths = {20, 33, 90, 270};
  if (!TestDeviceIsEmulated()) {
    for (int64_t i = 0; i < 12; ++i) lengths.push_back(50 + 50 * i);
  }
  return bench::PromptsToCompare(lengths, kShape.vocab, beginning);
}

class FastServingTest : public testing::Test {
 protected:
  // What comes next has the device's forms as another test leaves them.
  ~FastServingTest() override { LeaveOutFastForms(); }

  std::vector<FormAnswer> AnswersTo(const std::vector<std::vector<int32_t>>& prompts) {
    EngineSetup setup = SetupOnDevice();
    setup.pool_bytes = int64_t{64} << 20;
    setup.graphs.emplace();
    setup.engine.max_batch_tokens = 200;  // prompts in pieces, beside rows that decode
    SteppedEngine engine(&llama_.model(), llama_.folder(), setup);
    std::vector<std::shared_ptr<Recording>> recordings;
    for (const std::vector<int32_t>& prompt : prompts) {
      Request request;
      request.prompt_ids = prompt;
      request.sampling = bench::SamplingToCompare(/*tokens=*/8);
      recordings.push_back(engine.Submit(request));
    }
    engine.RunUntilIdle();
    EXPECT_GT(engine.parts().observer.device_steps["replayed"], 0);
    std::vector<FormAnswer> answers;
    for (const auto& recording : recordings) {
      answers.push_back(bench::AnswerOf(*recording));
      EXPECT_EQ(answers.back().ids.size(), 8u);
    }
    return answers;
  }

  bench::DeviceLlama llama_{kShape};
};

TEST_F(FastServingTest, FastFormsGiveTheLogProbabilitiesOfOurs) {
  LeaveOutFastForms();
  const std::vector<FormAnswer> ours = AnswersTo(Prompts(0)), of_other_beginnings = AnswersTo(Prompts(7));
  std::vector<std::string> used;
  for (const std::string& objection : CheckFastForms(&used)) std::printf("%s\n", objection.c_str());
  EXPECT_THAT(used, testing::Contains(testing::StartsWith("attention by ")));
  const std::vector<FormAnswer> fast = AnswersTo(Prompts(0));

  const bench::Differences of_prompts = bench::OfPrompts(ours, fast), of_tokens = bench::OfTokens(ours, fast);
  const bench::Differences of_context = bench::OfPrompts(ours, of_other_beginnings);
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
