// The prefix cache against transformers' and peft's answers: what was found computed gives the same tokens and, bit for
// bit, the same log-probabilities as what is computed; and an adapter never meets the KV of another that had its name.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "model/base/check.h"
#include "tests/component/alone.h"
#include "tests/component/golden_base.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/golden_runner.h"

namespace lorad {
namespace {

constexpr double kTolerance = 5e-4;
const std::string kName = "tenant";

class PrefixGoldenTest : public testing::TestWithParam<std::string> {
 protected:
  struct Result {
    Answer answer;
    int64_t cached_tokens = 0;
  };

  void Start(const EngineSetup& setup) {
    engine_ = std::make_unique<SteppedEngine>(&GoldenBase(GetParam()), GoldenDir(GetParam()) + "/model", setup);
  }
  const GoldenCase& Case(const std::string& name) const {
    const auto found =
        std::find_if(cases_.begin(), cases_.end(), [&name](const GoldenCase& c) { return c.name == name; });
    LORAD_CHECK(found != cases_.end());
    return *found;
  }
  void Serve(const std::string& variant, bool replace) {
    const CommandAnswer loaded = engine_->Load(kName, AdapterDir(GetParam(), variant), replace);
    engine_->RunUntilIdle();
    ASSERT_TRUE(loaded->has_value() && (*loaded)->ok()) << **loaded;
  }
  // Runs the prompt of a case under the name that its adapter has here.
  Result Send(const GoldenCase& golden) {
    Request request;
    request.adapter = golden.adapter.empty() ? "" : kName;
    request.prompt_ids = golden.prompt;
    request.sampling.max_tokens = golden.max_tokens;
    request.sampling.temperature = 0.0f;
    request.sampling.logprobs = 2;
    const std::shared_ptr<Recording> recording = engine_->Submit(std::move(request));
    engine_->RunUntilIdle();
    return {.answer = AnswerOf(*recording, 0), .cached_tokens = recording->sequences()[0].finish->usage.cached_tokens};
  }
  // The same, on the case's own adapter: the tokens must be the golden ones.
  Result Run(const GoldenCase& golden) {
    const Result result = Send(golden);
    std::vector<double> logprobs;
    for (const TokenLogprob& token : result.answer.tokens) logprobs.push_back(token.logprob);
    ExpectGolden(golden, {.tokens = result.answer.ids(), .logprobs = logprobs, .prompt_logprobs = {}}, kTolerance);
    return result;
  }
  // On another adapter the prompt must have another answer, or the test would prove nothing.
  void ExpectOtherTokens(const GoldenCase& golden) { EXPECT_NE(Send(golden).answer.ids(), golden.tokens); }
  static void ExpectSameBits(const Answer& a, const Answer& b) {
    ASSERT_EQ(a.ids(), b.ids());
    for (size_t i = 0; i < a.tokens.size(); ++i) {
      EXPECT_EQ(a.tokens[i].logprob, b.tokens[i].logprob) << "token " << i;
      ASSERT_EQ(a.tokens[i].top.size(), b.tokens[i].top.size());
      for (size_t t = 0; t < a.tokens[i].top.size(); ++t) {
        EXPECT_EQ(a.tokens[i].top[t].logprob, b.tokens[i].top[t].logprob) << "token " << i << ", rank " << t;
      }
    }
  }

  const std::vector<GoldenCase> cases_ = ReadGoldenCases(GoldenDir(GetParam()) + "/cases.json");
  std::unique_ptr<SteppedEngine> engine_;
};

TEST_P(PrefixGoldenTest, AReplacedAdapterAnswersWithItsOwnWeightsAndBackAgain) {
  const GoldenCase& one = Case("q_v-40");
  const GoldenCase& two = Case("all_linear-40");
  Start({});
  Serve("q_v", /*replace=*/false);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Run(one).cached_tokens, 0);
    EXPECT_EQ(Run(one).cached_tokens, 32);
    ExpectOtherTokens(two);  // now its prompt is cached, computed with these weights
    Serve("all_linear", /*replace=*/true);
    EXPECT_EQ(Run(two).cached_tokens, 0);
    EXPECT_EQ(Run(two).cached_tokens, 32);
    ExpectOtherTokens(one);
    Serve("q_v", /*replace=*/true);
  }
  ExpectOtherTokens(two);
  // Unloaded, and another loaded under the name: the same.
  const CommandAnswer unloaded = engine_->Unload(kName);
  engine_->RunUntilIdle();
  ASSERT_TRUE((*unloaded)->ok());
  EXPECT_EQ(engine_->state().prefix_cache->stats().blocks, 0);
  Serve("all_linear", /*replace=*/false);
  EXPECT_EQ(Run(two).cached_tokens, 0);
}

TEST_P(PrefixGoldenTest, WhatWasCachedGivesTheSameBitsWhateverTheChunks) {
  const GoldenCase& golden = Case("base-150");
  EngineSetup off;
  off.engine.prefix_cache = false;
  Start(off);
  const Result alone = Run(golden);
  EXPECT_EQ(Run(golden).cached_tokens, 0);
  for (const int64_t chunk : {7, 16, 33, 100, 512}) {
    SCOPED_TRACE(chunk);
    EngineSetup setup;
    setup.engine.max_batch_tokens = chunk;
    setup.engine.max_sequences = 4;
    Start(setup);
    const Result computed = Run(golden);
    EXPECT_EQ(computed.cached_tokens, 0);
    ExpectSameBits(computed.answer, alone.answer);
    const Result cached = Run(golden);
    EXPECT_EQ(cached.cached_tokens, 144);
    ExpectSameBits(cached.answer, alone.answer);
  }
}

// An aLoRA begins behind KV that the base computed, and the other way round.
class AloraGoldenTest : public PrefixGoldenTest {};

TEST_P(AloraGoldenTest, ABasesKvUpToTheInvocationGivesTheGoldenTokensAndTheSameBits) {
  const GoldenCase& golden = *std::find_if(cases_.begin(), cases_.end(), [](const GoldenCase& c) {
    return c.adapter.rfind("alora", 0) == 0 && c.prompt.size() >= 40;  // its invocation is at 26
  });
  GoldenCase of_base = golden;
  of_base.adapter = "";
  EngineSetup off;
  off.engine.prefix_cache = false;
  Start(off);
  Serve(golden.adapter, /*replace=*/false);
  const Result alone = Run(golden), base_alone = Send(of_base);
  EXPECT_NE(base_alone.answer.ids(), golden.tokens);

  Start({});
  Serve(golden.adapter, /*replace=*/false);
  EXPECT_EQ(Send(of_base).cached_tokens, 0);
  const Result behind_base = Run(golden);
  EXPECT_EQ(behind_base.cached_tokens, 16);
  ExpectSameBits(behind_base.answer, alone.answer);
  EXPECT_EQ(Run(golden).cached_tokens, 32);

  Start({});
  Serve(golden.adapter, /*replace=*/false);
  EXPECT_EQ(Run(golden).cached_tokens, 0);
  const Result behind_alora = Send(of_base);
  EXPECT_EQ(behind_alora.cached_tokens, 16);
  ExpectSameBits(behind_alora.answer, base_alone.answer);
}

INSTANTIATE_TEST_SUITE_P(Bases, AloraGoldenTest, testing::Values("llama2", "mistral"),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(Bases, PrefixGoldenTest,
                         testing::Values("llama3", "llama_linear", "mistral", "qwen2_sliding", "qwen3"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
