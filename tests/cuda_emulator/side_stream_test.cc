// What is queued beside the current stream: there behind the join and, as late as a device may be, not before.
#include "model/ops/side_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>

#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <c10/core/InferenceMode.h>

#include "model/ops/cuda_table.h"
#include "model/ops/rms_norm.h"
#include "tests/cuda_emulator/stream_races.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

using testing::HasSubstr;

class SideStreamTest : public testing::Test {
 protected:
  // y = x normed, which is ones; no number before.
  absl::Status Norm() { return RmsNorm({.x = x_, .weight = weight_, .eps = 0.0, .residual = nullptr, .y = y_}); }
  absl::Status NormBeside() {
    return side_->Queue([&] { return Norm(); });
  }
  float First() const { return y_.cpu().const_data_ptr<float>()[0]; }

  const c10::InferenceMode no_autograd_;
  const at::TensorOptions on_device_ = at::TensorOptions().device(at::Device(at::kCUDA, 0)).dtype(at::kFloat);
  const at::Tensor x_ = at::ones({2, 8}, on_device_), weight_ = at::ones({8}, on_device_);
  at::Tensor y_ = at::empty_like(x_);
  const std::unique_ptr<SideStream> side_ = InstalledCudaOps().new_side_stream();
};

TEST_F(SideStreamTest, WorkIsThereBehindTheJoinAndMayBeLate) {
  emulator::CollectRaces([](const std::string&) {});  // to read it before is one
  ASSERT_OK(NormBeside());
  EXPECT_TRUE(std::isnan(First()));
  ASSERT_OK(side_->Join());
  EXPECT_EQ(First(), 1.0f);
  emulator::CollectRaces(nullptr);
}

TEST_F(SideStreamTest, IsUsedAgainForWorkOfItsOwn) {
  for (int round = 0; round < 3; ++round) {
    y_ = at::empty_like(x_);
    ASSERT_OK(NormBeside());
    ASSERT_OK(side_->Join());
    EXPECT_EQ(First(), 1.0f);
  }
}

TEST_F(SideStreamTest, AnErrorOfWhatIsQueuedIsTold) {
  EXPECT_THAT(side_->Queue([] { return absl::InternalError("of the queue"); }).message(), HasSubstr("of the queue"));
  ASSERT_OK(side_->Join());
}

TEST_F(SideStreamTest, IsCapturedWithTheCurrentStream) {
  const std::unique_ptr<DeviceGraphs> graphs = InstalledCudaOps().new_graphs();
  const auto graph = graphs->Capture([&] {
    absl::Status status = NormBeside();
    status.Update(side_->Join());
    return status;
  });
  ASSERT_OK(graph.status());
  EXPECT_TRUE(std::isnan(First()));
  ASSERT_OK((*graph)->Replay());
  EXPECT_EQ(First(), 1.0f);
}

TEST_F(SideStreamTest, ACaptureWithoutTheJoinIsRefused) {
  const std::unique_ptr<DeviceGraphs> graphs = InstalledCudaOps().new_graphs();
  const auto captured = graphs->Capture([&] { return NormBeside(); });
  EXPECT_THAT(captured.status().message(), HasSubstr("not joined"));
}

}  // namespace
}  // namespace lorad
