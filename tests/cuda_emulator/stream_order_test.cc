// What is to be found of order between streams, each fault by work that has it, beside the same work in order.
#include "tests/cuda_emulator/stream_order.h"

#include <ATen/cuda/CUDAGraph.h>
#include <cuda.h>
#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "model/ops/cuda/launch.h"
#include "tests/cuda_emulator/stream_races.h"

namespace lorad::emulator {
namespace {

using cuda::Grid;
using cuda::Launch;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int kCount = 64;
constexpr size_t kBytes = kCount * sizeof(int);

__global__ void AddOne(const int* from, int* to) { to[threadIdx.x] = from[threadIdx.x] + 1; }

class StreamOrderTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(WatchesStreams()) << "LORAD_EMULATOR_WATCHES_STREAMS=1 is to be set";
    CollectRaces([this](const std::string& race) { races_.push_back(race); });
    for (cudaStream_t* stream : {&a_, &b_}) cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
    for (cudaEvent_t* event : {&event_, &other_event_}) cudaEventCreateWithFlags(event, cudaEventDisableTiming);
    for (int** ints : {&x_, &y_, &z_}) cudaMalloc(reinterpret_cast<void**>(ints), kBytes);
    void* host = nullptr;
    cudaHostAlloc(&host, kBytes, cudaHostAllocDefault);
    host_ = static_cast<int*>(host);
    std::memset(host_, 0, kBytes);
  }
  void TearDown() override {
    cudaDeviceSynchronize();
    CollectRaces(nullptr);
    cudaFreeHost(host_);
    for (int* ints : {x_, y_, z_}) cudaFree(ints);
    for (cudaEvent_t event : {event_, other_event_}) cudaEventDestroy(event);
    for (cudaStream_t stream : {a_, b_}) cudaStreamDestroy(stream);
  }

  void ToDevice(int* to, cudaStream_t stream) { cudaMemcpyAsync(to, host_, kBytes, cudaMemcpyHostToDevice, stream); }
  void ToHost(const int* from, cudaStream_t stream) {
    cudaMemcpyAsync(host_, from, kBytes, cudaMemcpyDeviceToHost, stream);
  }
  static void Add(const int* from, int* to, cudaStream_t stream) { Launch(&AddOne, Grid(1), kCount, stream, from, to); }
  void Let(cudaStream_t waiting, cudaStream_t wait_for, cudaEvent_t event) {
    cudaEventRecord(event, wait_for);
    cudaStreamWaitEvent(waiting, event, 0);
  }
  const std::vector<std::string>& AtEnd() {
    cudaDeviceSynchronize();
    return races_;
  }

  cudaStream_t a_ = nullptr, b_ = nullptr;
  cudaEvent_t event_ = nullptr, other_event_ = nullptr;
  int *x_ = nullptr, *y_ = nullptr, *z_ = nullptr, *host_ = nullptr;
  std::vector<std::string> races_;
};

TEST_F(StreamOrderTest, AKernelThatDoesNotWaitForACopy) {
  ToDevice(x_, a_);
  Add(x_, y_, b_);
  EXPECT_THAT(AtEnd(), ElementsAre(AllOf(HasSubstr("AddOne"), HasSubstr("cudaMemcpyAsync"), HasSubstr("on stream"))));
}
TEST_F(StreamOrderTest, TheDefaultStreamIsOneLikeOthers) {
  ToDevice(x_, a_);
  Add(x_, y_, nullptr);
  EXPECT_THAT(AtEnd(), ElementsAre(HasSubstr("on the default stream")));
}
TEST_F(StreamOrderTest, AKernelBehindACopysEvent) {
  ToDevice(x_, a_);
  Let(b_, a_, event_);
  Add(x_, y_, b_);
  Let(nullptr, b_, other_event_);
  Add(y_, z_, nullptr);
  EXPECT_THAT(AtEnd(), IsEmpty());
}
TEST_F(StreamOrderTest, AnEventThatWasRecordedTooEarly) {
  cudaEventRecord(event_, a_);
  ToDevice(x_, a_);
  cudaStreamWaitEvent(b_, event_, 0);
  Add(x_, y_, b_);
  EXPECT_EQ(AtEnd().size(), 1u);
}
TEST_F(StreamOrderTest, OneStreamIsInOrder) {
  ToDevice(x_, a_);
  Add(x_, y_, a_);
  Add(y_, x_, a_);
  ToHost(x_, a_);
  cudaStreamSynchronize(a_);
  EXPECT_EQ(host_[0], 2);
  EXPECT_THAT(races_, IsEmpty());
}
TEST_F(StreamOrderTest, AWriteBesideReadsOfTwoStreams) {
  ToDevice(x_, nullptr);
  cudaStreamSynchronize(nullptr);
  Add(x_, y_, a_);
  Add(x_, z_, b_);
  Let(nullptr, b_, event_);  // and not for a
  cudaStreamSynchronize(a_->waiting.empty() ? nullptr : b_);
  RunUntil(a_, QueuedOn(a_));  // which happened, unknown to anybody
  EXPECT_THAT(races_, IsEmpty());
  ToDevice(x_, nullptr);
  EXPECT_THAT(AtEnd(), ElementsAre(HasSubstr("reads")));
}
TEST_F(StreamOrderTest, WhatTheHostWaitedForIsBeforeWhatItQueues) {
  ToDevice(x_, a_);
  cudaEventRecord(event_, a_);
  cudaEventSynchronize(event_);
  Add(x_, y_, b_);
  Add(x_, z_, nullptr);
  EXPECT_THAT(AtEnd(), IsEmpty());
}

TEST_F(StreamOrderTest, PinnedMemoryThatIsWrittenWhileItIsCopied) {
  ToDevice(x_, a_);
  EXPECT_EQ(host_[1], 0);  // reading it is nothing
  EXPECT_THAT(races_, IsEmpty());
  host_[1] = 1;
  EXPECT_THAT(races_, ElementsAre(AllOf(HasSubstr("the host writes pinned memory"), HasSubstr("cudaMemcpyAsync"))));
}
TEST_F(StreamOrderTest, PinnedMemoryThatIsWrittenBehindADefaultStreamsCopy) {
  ToDevice(x_, nullptr);
  host_[1] = 1;
  EXPECT_EQ(AtEnd().size(), 1u);
}
TEST_F(StreamOrderTest, PinnedMemoryThatIsReadBeforeTheCopyHasCome) {
  ToDevice(x_, a_);
  ToHost(x_, a_);
  EXPECT_EQ(std::memchr(host_, 1, kBytes), nullptr);  // libc's access, too
  EXPECT_THAT(races_, ElementsAre(HasSubstr("the host touches pinned memory")));
}
TEST_F(StreamOrderTest, PinnedMemoryBehindAWait) {
  for (int round = 0; round < 3; ++round) {
    host_[0] = round;
    ToDevice(x_, a_);
    Add(x_, y_, a_);
    ToHost(y_, a_);
    cudaEventRecord(event_, a_);
    cudaEventSynchronize(event_);
    EXPECT_EQ(host_[0], round + 1);
  }
  EXPECT_THAT(AtEnd(), IsEmpty());
}
TEST_F(StreamOrderTest, PinnedMemoryThatIsFreedWhileItIsCopied) {
  ToDevice(x_, a_);
  cudaFreeHost(host_);
  EXPECT_THAT(races_, ElementsAre(HasSubstr("cudaFreeHost")));
  cudaStreamSynchronize(a_);
  void* again = nullptr;
  cudaHostAlloc(&again, kBytes, cudaHostAllocDefault);
  host_ = static_cast<int*>(again);
}

TEST_F(StreamOrderTest, MemoryThatIsFreedWhileAStreamUsesIt) {
  Add(x_, y_, nullptr);
  cudaFree(x_);
  EXPECT_THAT(races_, ElementsAre(HasSubstr("cudaFree")));
  cudaMalloc(reinterpret_cast<void**>(&x_), kBytes);
}
TEST_F(StreamOrderTest, MemoryIsUnmappedBehindAWaitForTheDevice) {
  CUdeviceptr at = 0;
  CUmemGenericAllocationHandle handle = 0;
  const CUmemAccessDesc access = {{}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  for (const bool waits : {true, false}) {
    cuMemAddressReserve(&at, kMapBytes, 0, 0, 0);
    cuMemCreate(&handle, kMapBytes, nullptr, 0);
    cuMemMap(at, kMapBytes, 0, handle, 0);
    cuMemSetAccess(at, kMapBytes, &access, 1);
    Add(x_, reinterpret_cast<int*>(at), nullptr);
    if (waits) cudaDeviceSynchronize();
    cuMemUnmap(at, kMapBytes);
    cuMemRelease(handle);
    EXPECT_EQ(races_.size(), waits ? 0u : 1u);
  }
}

// y = x + 1 beside the first stream, z = y + 1 on it, in a graph.
class CapturedOrderTest : public StreamOrderTest {
 protected:
  void Capture(at::cuda::CUDAGraph& graph, bool joined_in_time) {
    graph.capture_begin(at::cuda::graph_pool_handle(), cudaStreamCaptureModeThreadLocal);
    Let(side_.stream(), nullptr, event_);
    Add(x_, y_, side_.stream());
    cudaEventRecord(other_event_, side_.stream());
    if (joined_in_time) cudaStreamWaitEvent(nullptr, other_event_, 0);
    Add(y_, z_, nullptr);
    cudaStreamWaitEvent(nullptr, other_event_, 0);
    graph.capture_end();
  }
  const c10::cuda::CUDAStream side_ = c10::cuda::getStreamFromPool();
};

TEST_F(CapturedOrderTest, AnEdgeThatIsMissing) {
  at::cuda::CUDAGraph graph;
  Capture(graph, /*joined_in_time=*/false);
  EXPECT_THAT(races_, IsEmpty());
  graph.replay();
  EXPECT_THAT(races_, ElementsAre(HasSubstr("AddOne")));
}
TEST_F(CapturedOrderTest, ReplayBehindReplay) {
  at::cuda::CUDAGraph graph;
  Capture(graph, /*joined_in_time=*/true);
  for (int round = 0; round < 3; ++round) {
    ToDevice(x_, nullptr);
    graph.replay();
    Add(z_, x_, nullptr);
  }
  EXPECT_THAT(AtEnd(), IsEmpty());
}
TEST_F(CapturedOrderTest, AReplayBesideACopy) {
  at::cuda::CUDAGraph graph;
  Capture(graph, /*joined_in_time=*/true);
  graph.replay();
  EXPECT_THAT(races_, IsEmpty());
  ToDevice(x_, a_);  // which the graph's side stream reads
  EXPECT_THAT(AtEnd(), ElementsAre(AllOf(HasSubstr("cudaMemcpyAsync"), HasSubstr("AddOne"))));
}

}  // namespace
}  // namespace lorad::emulator
