// The property that guards the whole daemon: any mix of requests and adapters gives each request the tokens it gets
// alone, with prompts cut into chunks, neighbours that join, leave and are cancelled, adapters that come, go and are
// replaced, prompts that begin alike and share their KV, and too little memory for all of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/component/alone.h"
#include "tests/component/answer.h"
#include "tests/component/random_batch.h"

namespace lorad {
namespace {

constexpr uint64_t kBatchesPerBase = 150;

// All that peft and MoE-PEFT wrote for the base.
std::vector<std::string> Folders(const std::string& base) {
  std::vector<std::string> folders;
  for (const std::string& dir : {AdapterDir(base, ""), AdapterDir("moe_peft/" + base, "")}) {
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(dir, none)) folders.push_back(entry.path().string());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

class BatchPropertyTest : public testing::TestWithParam<std::string> {};

TEST_P(BatchPropertyTest, BatchedEqualsAlone) {
  AloneRunner alone(GetParam());
  const std::vector<std::string> folders = Folders(GetParam());
  BatchedEqualsAlone compared;
  BatchCounts counts;
  for (uint64_t seed = 0; seed < kBatchesPerBase && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomBatch(GetParam(), folders, seed, &alone).Run(&compared, &counts);
  }
  // Whatever the property is about did happen.
  EXPECT_EQ(counts.batches, static_cast<int64_t>(kBatchesPerBase));
  EXPECT_GT(compared.requests(), 5 * counts.batches);
  EXPECT_GT(compared.compared_tokens(), 20 * compared.unclaimed_tokens());
  for (const int64_t count : {counts.mixed_steps, counts.preemptions, counts.evictions, counts.replaced,
                              counts.unloaded, counts.cancelled, counts.poisoned, counts.cached_tokens}) {
    EXPECT_GT(count, 0);
  }
  EXPECT_GE(counts.most_adapters, 3);
  RecordProperty("counts",
                 absl::StrCat("requests ", compared.requests(), ", tokens ", compared.compared_tokens(), ", unclaimed ",
                              compared.unclaimed_tokens(), ", mixed steps ", counts.mixed_steps, ", preemptions ",
                              counts.preemptions, ", evictions ", counts.evictions, ", replaced ", counts.replaced,
                              ", unloaded ", counts.unloaded, ", cancelled ", counts.cancelled, ", poisoned ",
                              counts.poisoned, ", cached tokens ", counts.cached_tokens));
}

INSTANTIATE_TEST_SUITE_P(Bases, BatchPropertyTest,
                         testing::Values("llama3", "llama_linear", "mistral", "qwen2_sliding", "qwen3", "opt_post",
                                         "phi"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
