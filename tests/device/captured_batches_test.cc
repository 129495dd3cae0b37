// The property that guards the whole daemon, over captured steps.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/causal_lm.h"
#include "tests/component/golden_base.h"
#include "tests/component/random_batch.h"
#include "tests/device/test_device.h"

namespace lorad {
namespace {

std::vector<std::string> Folders(const std::string& base) {
  std::vector<std::string> folders;
  for (const auto& entry : std::filesystem::directory_iterator(AdapterDir(base, ""))) {
    folders.push_back(entry.path().string());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

// Lengths, block tables, sampling, adapters and their versions change from one replay to the next, requests are
// cancelled and preempted, an adapter of nothing but NaN is among them.
TEST(CapturedBatchesTest, ARequestGetsInReplayedStepsWhatItGetsAlone) {
  constexpr uint64_t kSeeds = 4;
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model =
      CausalLm::Load(GoldenDir(base) + "/model", {.device = at::Device(at::kCUDA, 0)}).value();
  AloneRunner alone(base);
  const std::vector<std::string> folders = Folders(base);
  const BatchDevice device = {model.get(), TestDeviceMemory(), StepGraphs::Options()};
  BatchedEqualsAlone compared;
  BatchCounts counts;
  for (uint64_t seed = 0; seed < kSeeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomBatch(base, folders, seed, &alone, device).Run(&compared, &counts);
  }
  EXPECT_GT(compared.compared_tokens(), 20 * compared.unclaimed_tokens());
  EXPECT_GT(counts.device_steps["replayed"], 0);
  EXPECT_EQ(counts.device_steps["capture_failed"], 0);
  for (const auto& [how, steps] : counts.device_steps) RecordProperty(how, static_cast<int>(steps));
}

}  // namespace
}  // namespace lorad
