// The layer below the scheduler: the decoder, the seam and the pools give each request the same tokens however its rows
// are cut into steps and whoever is in them.
#include "tests/component/random_steps.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/component/answer.h"
#include "tests/component/golden_base.h"
#include "tests/component/random_adapter.h"

namespace lorad {
namespace {

constexpr int64_t kPageBytes = 4096;
constexpr int64_t kPoolBytes = int64_t{24} << 20;
constexpr int kSeeds = 20;

Generation RandomGeneration(Rng& rng, int64_t vocab) {
  Generation generation;
  generation.prompt = RandomPrompt(rng, Chance(rng, 0.1) ? Pick(rng, 100, 150) : Pick(rng, 1, 40), vocab);
  generation.sampling.max_tokens = Pick(rng, 1, 20);
  generation.sampling.logprobs = 2;
  generation.sampling.temperature = 0.0f;
  if (Chance(rng, 0.2)) {
    generation.sampling.temperature = 0.8f;
    generation.sampling.top_p = 0.9f;
    generation.sampling.seed = rng();
  }
  if (Chance(rng, 0.15)) generation.cancel_at_tokens = Pick(rng, 1, generation.sampling.max_tokens);
  return generation;
}

class RandomStepsTest : public testing::TestWithParam<std::string> {
 protected:
  CausalLm& model() const { return GoldenBase(GetParam()); }
  int64_t vocab() const { return model().config().vocab_size; }

  void CompareAll(StepDriver& driver, const std::vector<Generation>& generations, Rng& rng) {
    const std::vector<Answer> batched = driver.RunInRandomSteps(generations, rng);
    for (size_t i = 0; i < generations.size(); ++i) {
      if (generations[i].poisoned) continue;
      const bool greedy = generations[i].sampling.temperature == 0.0f;
      compared_.Compare(absl::StrCat("request ", i), driver.RunAlone(generations[i]), batched[i], {.greedy = greedy});
    }
  }
  void ExpectThatMostWasClaimed() const {
    EXPECT_GT(compared_.compared_tokens(), 20 * compared_.unclaimed_tokens());
    EXPECT_GT(compared_.compared_tokens(), 50 * kSeeds);
  }

  BatchedEqualsAlone compared_;
};

TEST_P(RandomStepsTest, BaseRequestsGetWhatTheyGetAlone) {
  BaseOnlySeam seam;
  for (int seed = 0; seed < kSeeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Rng rng(static_cast<uint64_t>(seed));
    const auto pages = *PagePool::Create(kPoolBytes, kPageBytes);
    StepDriver driver(&model(), &seam, pages.get(), nullptr);
    std::vector<Generation> generations;
    for (int64_t i = Pick(rng, 2, 14); i > 0; --i) generations.push_back(RandomGeneration(rng, vocab()));
    CompareAll(driver, generations, rng);
    EXPECT_EQ(pages->free_pages(), pages->total_pages());
  }
  ExpectThatMostWasClaimed();
}

INSTANTIATE_TEST_SUITE_P(Bases, RandomStepsTest,
                         testing::Values("llama3", "llama_linear", "mistral", "qwen2_sliding", "qwen3", "opt_post",
                                         "phi"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
