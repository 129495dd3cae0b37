// What of a step comes to the host, and in how many copies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/ops/arange.h>

#include "model/causal_lm.h"
#include "model/device_step.h"
#include "scheduler/model_executor.h"
#include "tests/component/golden_base.h"
#include "tests/cuda_emulator/torch_device.h"
#include "tests/device/test_device.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using ::testing::ElementsAre;

const at::Device kDevice(at::kCUDA, 0);

TEST(ResultsToHostTest, RowsComeInPiecesOfSoManyBytes) {
  const at::Tensor rows = at::arange(30, at::TensorOptions().dtype(at::kFloat)).view({10, 3}).to(kDevice);
  std::vector<int64_t> firsts;
  std::vector<float> values;
  const auto take = [&](int64_t first, const at::Tensor& some) {
    firsts.push_back(first);
    const float* const begin = some.const_data_ptr<float>();
    values.insert(values.end(), begin, begin + some.numel());
  };
  std::vector<float> all(30);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<float>(i);
  const int64_t before = emulator::CopiesToHost();
  ToHostInPieces(rows, /*most_bytes=*/4 * 12 + 11, take);
  EXPECT_EQ(emulator::CopiesToHost() - before, 3);
  EXPECT_THAT(firsts, ElementsAre(0, 4, 8));
  EXPECT_EQ(values, all);

  firsts.clear(), values.clear();
  ToHostInPieces(rows, /*most_bytes=*/5, take);  // less than a row
  EXPECT_EQ(std::ssize(firsts), 10);
  EXPECT_EQ(values, all);

  firsts.clear(), values.clear();
  ToHostInPieces(rows.cpu(), /*most_bytes=*/5, take);  // they lie there
  EXPECT_THAT(firsts, ElementsAre(0));
  EXPECT_EQ(values, all);
}

class ExecutedStepTest : public testing::Test {
 protected:
  static constexpr int64_t kBlocks = 4;

  static std::unique_ptr<CausalLm> Load() {
    return CausalLm::Load(GoldenDir("llama3") + "/model", {.device = kDevice}).value();
  }
  // The first tokens of a prompt, in a block of its own.
  ExecRow Row(int32_t block, int64_t tokens, int32_t classes) const {
    ExecRow row;
    row.token_ids = row.prompt_ids = absl::MakeConstSpan(prompt_).first(static_cast<size_t>(tokens));
    row.blocks = {block};
    row.sample = true;
    row.classes = classes;
    row.sampling = &sampling_;
    return row;
  }
  // A matmul may sum in another order with other rows.
  static auto AreNear(const std::vector<float>& expected) {
    return testing::Pointwise(testing::FloatNear(1e-5f), expected);
  }
  StepResult Run(const std::vector<ExecRow>& rows) {
    absl::StatusOr<StepResult> result = executor_.Wait(executor_.Launch(rows, /*expected_us=*/0));
    EXPECT_THAT(result, IsOk());
    return result.ok() ? *std::move(result) : StepResult();
  }

  const std::vector<int32_t> prompt_ = {5, 9, 30, 77, 3, 8};
  const SamplingOptions sampling_;
  const std::unique_ptr<CausalLm> model_ = Load();
  const int64_t block_bytes_ = model_->kv_layout().block_bytes();
  const std::unique_ptr<PoolMemory> memory_ = TestDeviceMemory().create(kBlocks * block_bytes_).value();
  BaseOnlySeam base_;
  ModelExecutor executor_{model_.get(), {memory_->data(), block_bytes_, model_->kv_layout()}, &base_};
};

TEST_F(ExecutedStepTest, TheClassesOfAllRowsComeInOneCopy) {
  const int64_t before = emulator::CopiesToHost();
  const StepResult together = Run({Row(0, 6, 3), Row(1, 4, 5), Row(2, 1, 1)});
  EXPECT_EQ(emulator::CopiesToHost() - before, 1);
  ASSERT_EQ(together.rows.size(), 3u);
  EXPECT_THAT(together.rows[0].class_logits, AreNear(Run({Row(0, 6, 3)}).rows[0].class_logits));
  EXPECT_THAT(together.rows[1].class_logits, AreNear(Run({Row(1, 4, 5)}).rows[0].class_logits));
  EXPECT_THAT(together.rows[2].class_logits, AreNear(Run({Row(2, 1, 1)}).rows[0].class_logits));
  EXPECT_EQ(std::ssize(together.rows[1].class_logits), 5);
  for (const RowResult& row : together.rows) EXPECT_TRUE(row.sampled);
}

}  // namespace
}  // namespace lorad
