// Order between streams where LibTorch is in it: what its operators touch, its memory that goes from one tensor to the
// next, its pinned memory.
#include "tests/cuda_emulator/torch_order.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>

#include "model/copy_aside.h"
#include "model/ops/cuda/launch.h"

namespace lorad::emulator {
namespace {

using cuda::Grid;
using cuda::Launch;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int kCount = 64;
const at::Device kOnDevice(at::kCUDA, 0);

__global__ void ReadAll(const float* from, float* to) { to[threadIdx.x] = from[threadIdx.x]; }

class TorchOrderTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(WatchesStreams()) << "LORAD_EMULATOR_WATCHES_STREAMS=1 is to be set";
    CollectRaces([this](const std::string& race) { races_.push_back(race); });
    cudaEventCreateWithFlags(&event_, cudaEventDisableTiming);
  }
  void TearDown() override {
    cudaStreamSynchronize(side_.stream());
    CollectRaces(nullptr);
    cudaEventDestroy(event_);
  }
  static at::Tensor Ones() { return at::ones({kCount}, at::TensorOptions().device(kOnDevice)); }
  static at::Tensor Pinned() { return at::empty({kCount}, at::TensorOptions().pinned_memory(true)); }
  // On the side stream, behind all of the default one's.
  void ReadAside(const at::Tensor& from, const at::Tensor& to) {
    cudaEventRecord(event_, nullptr);
    cudaStreamWaitEvent(side_.stream(), event_, 0);
    Launch(&ReadAll, Grid(1), kCount, side_.stream(), from.const_data_ptr<float>(), to.mutable_data_ptr<float>());
    cudaEventRecord(event_, side_.stream());
  }
  void Join() { cudaStreamWaitEvent(nullptr, event_, 0); }
  // It happened, and nobody knows.
  void RunAside() { RunUntil(side_.stream(), QueuedOn(side_.stream())); }
  static c10::Stream Default() { return c10::impl::VirtualGuardImpl(at::kCUDA).getDefaultStream(kOnDevice); }

  const c10::InferenceMode no_autograd_;
  const c10::cuda::CUDAStream side_ = c10::cuda::getStreamFromPool();
  cudaEvent_t event_ = nullptr;
  std::vector<std::string> races_;
};

TEST_F(TorchOrderTest, AnOperatorThatReadsASideStreamsResultWithoutTheJoin) {
  const at::Tensor x = Ones(), y = at::empty_like(x);
  for (const bool joins : {true, false}) {
    ReadAside(x, y);
    RunAside();
    if (joins) Join();
    const at::Tensor sum = at::add(y, y);
    EXPECT_EQ(races_.empty(), joins);
  }
  EXPECT_THAT(races_, ElementsAre(AllOf(HasSubstr("aten::add"), HasSubstr("ReadAll"))));
}
TEST_F(TorchOrderTest, AnOperatorThatWritesWhatASideStreamReads) {
  at::Tensor x = Ones();
  const at::Tensor y = at::empty_like(x);
  ReadAside(x, y);
  RunAside();
  x.zero_();
  EXPECT_THAT(races_, ElementsAre(HasSubstr("writes")));
}
TEST_F(TorchOrderTest, ColumnsBesideOthersAreNobodysBusiness) {
  const at::Tensor rows = at::ones({2, kCount, kCount}, at::TensorOptions().device(kOnDevice));
  const at::Tensor first = rows.select(0, 0).select(0, 0), x = Ones();
  ReadAside(x, first);
  RunAside();
  rows.narrow(1, 1, kCount - 1).narrow(2, 3, 4).zero_();
  rows.select(1, 0).select(0, 1).zero_();
  EXPECT_THAT(races_, IsEmpty());
  rows.select(2, kCount - 1).zero_();
  EXPECT_EQ(races_.size(), 1u);
}

// x is freed while the side stream reads it, and the next tensor may have its memory.
TEST_F(TorchOrderTest, MemoryGoesOnInTheOrderOfItsStream) {
  const at::Tensor y = Ones();
  for (const bool joins : {true, false}) {
    at::Tensor x = Ones();
    ReadAside(x, y);
    RunAside();
    x.reset();
    if (joins) Join();
    const at::Tensor next = Ones();
    EXPECT_EQ(races_.empty(), joins);
  }
  EXPECT_THAT(races_, ElementsAre(HasSubstr("was freed")));
}
TEST_F(TorchOrderTest, MemoryOfAnotherStreamIsNotThatOfWhoFreesIt) {
  const at::Tensor y = Ones();
  at::Tensor x = Ones();
  ReadAside(x, y);
  RunAside();
  x.reset();
  {
    const c10::cuda::CUDAStreamGuard aside(side_);  // whose own memory this is
    const at::Tensor next = at::empty({kCount}, at::TensorOptions().device(kOnDevice));
  }
  Join();
  EXPECT_THAT(races_, IsEmpty());
}
TEST_F(TorchOrderTest, NewMemoryThatAnotherStreamTakesAtOnce) {
  const at::Tensor x = Ones();
  cudaStreamSynchronize(nullptr);
  const at::Tensor y = at::empty_like(x);
  Launch(&ReadAll, Grid(1), kCount, side_.stream(), x.const_data_ptr<float>(), y.mutable_data_ptr<float>());
  RunAside();
  EXPECT_THAT(races_, ElementsAre(AllOf(HasSubstr("ReadAll"), HasSubstr("an allocation"))));
}
TEST_F(TorchOrderTest, MemoryWithinAGraph) {
  const at::Tensor x = Ones(), y = Ones();
  for (const bool joins : {true, false}) {
    at::cuda::CUDAGraph graph;
    graph.capture_begin(at::cuda::graph_pool_handle(), cudaStreamCaptureModeThreadLocal);
    at::Tensor sum = at::add(x, x);
    ReadAside(sum, y);
    if (joins) Join();
    sum.reset();
    sum = at::add(x, x);
    Join();
    graph.capture_end();
    graph.replay();
    graph.replay();
    EXPECT_EQ(races_.empty(), joins);
  }
}

TEST_F(TorchOrderTest, PinnedMemoryOfACopyToTheDevice) {
  const at::Tensor staged = Pinned();
  staged.fill_(1);
  at::Tensor x = Ones();
  x.copy_(staged, /*non_blocking=*/true);
  EXPECT_THAT(races_, IsEmpty());
  staged.fill_(2);
  EXPECT_THAT(races_, ElementsAre(HasSubstr("the host writes pinned memory")));
  x.copy_(staged, /*non_blocking=*/true);
  cudaStreamSynchronize(nullptr);
  staged.fill_(3);
  x.copy_(staged);
  staged.fill_(4);
  EXPECT_EQ(races_.size(), 1u);
}
TEST_F(TorchOrderTest, PinnedMemoryIsGivenAgainBehindItsCopyAlone) {
  at::Tensor x = Ones(), staged = Pinned();
  const void* const before = staged.const_data_ptr();
  x.copy_(staged, /*non_blocking=*/true);
  staged.reset();
  staged = Pinned();
  EXPECT_NE(staged.const_data_ptr(), before);
  staged.fill_(1);
  EXPECT_THAT(races_, IsEmpty());
}
TEST_F(TorchOrderTest, PinnedMemoryOfACopyToTheHost) {
  const at::Tensor x = Ones(), host = Pinned();
  for (const bool waits : {true, false}) {
    host.copy_(x, /*non_blocking=*/true);
    c10::Event copied(at::kCUDA);
    copied.record(Default());
    if (waits) copied.synchronize();
    EXPECT_EQ(host.const_data_ptr<float>()[0], 1.0f);  // of the first round, if nobody waits
    EXPECT_EQ(races_.empty(), waits);
  }
  EXPECT_THAT(races_, ElementsAre(HasSubstr("the host touches pinned memory")));
}
TEST_F(TorchOrderTest, ACopyAsideWaitsForTheDefaultStream) {
  const at::Tensor x = Ones();
  for (int round = 0; round < 2; ++round) EXPECT_EQ(CopyAside(at::add(x, x)).const_data_ptr<float>()[0], 2.0f);
  EXPECT_THAT(races_, IsEmpty());
}
TEST_F(TorchOrderTest, ANumberThatTheHostAsksForIsAWait) {
  at::Tensor staged = Pinned(), x = Ones();
  staged.fill_(1);
  x.copy_(staged, /*non_blocking=*/true);
  EXPECT_EQ(x.select(0, 0).item<float>(), 1.0f);
  staged.fill_(2);
  EXPECT_THAT(races_, IsEmpty());
}

}  // namespace
}  // namespace lorad::emulator
