#include "tests/cuda_emulator/block.h"

#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <shared_array.cuh>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "model/ops/cuda/add_in_halves.cuh"
#include "model/ops/cuda/launch.h"

// The emulator finds what kernels do wrong, and runs what they do right.
namespace lorad::emulator {
namespace {

using cuda::Grid;
using cuda::Launch;
using cuda::SharedArray;
using testing::Each;
using testing::HasSubstr;
using testing::ThrowsMessage;

template <typename... Arguments>
std::function<void()> Launching(void (*kernel)(Arguments...), unsigned threads, const Arguments&... arguments) {
  return [=] { Launch(kernel, Grid(1), static_cast<int>(threads), nullptr, arguments...); };
}

__global__ void WhereAmI(int* seen) { seen[(blockIdx.y * 3 + blockIdx.x) * blockDim.x + threadIdx.x] += 1; }
TEST(BlockTest, EveryThreadOfEveryBlockRunsOnce) {
  std::vector<int> seen(3 * 2 * 40);
  Launch(&WhereAmI, Grid(3, 2), 40, nullptr, seen.data());
  EXPECT_THAT(seen, Each(1));
}

__global__ void Reverse(int* values) {
  __shared__ SharedArray<int, 128> shared;
  const int i = static_cast<int>(threadIdx.x), n = static_cast<int>(blockDim.x);
  shared[i] = values[i];
  __syncthreads();
  values[i] = shared[n - 1 - i];
}
TEST(BlockTest, ABarrierOrdersSharedMemory) {
  std::vector<int> values(100);
  for (int i = 0; i < 100; ++i) values[i] = i;
  Launch(&Reverse, Grid(1), 100, nullptr, values.data());
  for (int i = 0; i < 100; ++i) EXPECT_EQ(values[i], 99 - i);
}

__global__ void WarpWork(int* sums, unsigned* votes, int* atomic) {
  const int i = static_cast<int>(threadIdx.x);
  int sum = i;
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
  sums[i] = sum;
  votes[i] = __ballot_sync(0xFFFFFFFFu, i % 2 == 0);
  if (i % 32 < 4) sums[i] += __shfl_sync(0xFu, i, 3);
  atomicAdd(atomic, 1);
}
TEST(BlockTest, WarpsShuffleVoteAndAddByThemselves) {
  std::vector<int> sums(64);
  std::vector<unsigned> votes(64);
  int atomic = 0;
  Launch(&WarpWork, Grid(1), 64, nullptr, sums.data(), votes.data(), &atomic);
  EXPECT_EQ(sums[5], 31 * 32 / 2);
  EXPECT_EQ(sums[37], 31 * 32 / 2 + 32 * 32);
  EXPECT_EQ(sums[34], 31 * 32 / 2 + 32 * 32 + 35);
  EXPECT_THAT(votes, Each(0x55555555u));
  EXPECT_EQ(atomic, 64);
}

__global__ void HalfAtTheBarrier(int ends) {
  if (static_cast<int>(threadIdx.x) < ends) return;
  __syncthreads();
}
TEST(BlockTest, ABarrierThatSomeThreadsNeverReachIsAFault) {
  EXPECT_THAT(Launching(&HalfAtTheBarrier, 64, 1),
              ThrowsMessage<KernelFault>(HasSubstr("thread 0 of block (0, 0, 0): does not reach the __syncthreads")));
  EXPECT_NO_THROW(Launching(&HalfAtTheBarrier, 64, 0)());
}

__global__ void LanesMissing(int) {
  if (threadIdx.x != 7) __shfl_xor_sync(0xFFFFFFFFu, 1.0f, 1);
}
TEST(BlockTest, AShuffleWithoutAllItsLanesIsAFault) {
  EXPECT_THAT(Launching(&LanesMissing, 32, 0), ThrowsMessage<KernelFault>(HasSubstr("for lanes that do not come")));
}

__global__ void TwoOperations(int) {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __ballot_sync(0xFFFFFFFFu, true);
  }
}
TEST(BlockTest, LanesInDifferentOperationsAreAFault) {
  EXPECT_THAT(Launching(&TwoOperations, 32, 0), ThrowsMessage<KernelFault>(HasSubstr("another operation or mask")));
}

__global__ void Unwritten(float* out) {
  __shared__ SharedArray<float, 32> shared;
  if (threadIdx.x != 3) shared[static_cast<int>(threadIdx.x)] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = shared[static_cast<int>(threadIdx.x)];
}
TEST(BlockTest, ReadingSharedMemoryThatNobodyWroteIsAFault) {
  std::vector<float> out(32);
  EXPECT_THAT(Launching(&Unwritten, 32, out.data()),
              ThrowsMessage<KernelFault>(HasSubstr("element 3 of shared memory, unwritten")));
  // What another block wrote is no excuse.
  EXPECT_THAT(Launching(&Unwritten, 32, out.data()), ThrowsMessage<KernelFault>(HasSubstr("unwritten")));
}

__global__ void OutOfShared(int) {
  __shared__ SharedArray<int, 16> shared;
  shared[static_cast<int>(threadIdx.x)] = 1;
}
TEST(BlockTest, AnIndexOutsideOfSharedMemoryIsAFault) {
  EXPECT_THAT(Launching(&OutOfShared, 17, 0),
              ThrowsMessage<KernelFault>(HasSubstr("element 16 of a shared array of 16")));
}

// Threads tell each other something through shared memory, with a barrier of the block or warp in between, or none.
enum class Order { kNone, kWarp, kBlock };
__global__ void ReadsAnother(Order order, int reader, int writer, bool write_first) {
  __shared__ SharedArray<int, 1> shared;
  const int i = static_cast<int>(threadIdx.x);
  if (i == writer) shared[0] = 0;
  __syncthreads();
  if (write_first ? i == writer : i == reader || i == reader - 1) {
    if (write_first) {
      shared[0] = 1;
    } else {
      [[maybe_unused]] const int value = shared[0];
    }
  }
  if (order == Order::kWarp) __syncwarp();
  if (order == Order::kBlock) __syncthreads();
  if (write_first ? i == reader : i == writer) {
    if (write_first) {
      [[maybe_unused]] const int value = shared[0];
    } else {
      shared[0] = 1;
    }
  }
}
TEST(BlockTest, ThreadsThatTouchOneElementWithoutABarrierInBetweenRace) {
  struct Case {
    Order order;
    int reader, writer;
    bool races;
  };
  for (const Case& c : {Case{Order::kNone, 5, 4, true}, Case{Order::kNone, 40, 4, true}, Case{Order::kNone, 5, 5, true},
                        Case{Order::kWarp, 5, 4, false}, Case{Order::kWarp, 40, 4, true},
                        Case{Order::kBlock, 5, 4, false}, Case{Order::kBlock, 40, 4, false}}) {
    for (const bool write_first : {false, true}) {
      const auto run = Launching(&ReadsAnother, 64, c.order, c.reader, c.writer, write_first);
      if (c.races && (c.reader != c.writer || !write_first)) {
        EXPECT_THROW(run(), KernelFault) << static_cast<int>(c.order) << " " << c.reader << " " << write_first;
      } else {
        EXPECT_NO_THROW(run()) << static_cast<int>(c.order) << " " << c.reader << " " << write_first;
      }
    }
  }
}

__global__ void ReadsFar(const float* from, float* out, int far) {
  out[threadIdx.x] = from[static_cast<int>(threadIdx.x) + far];
}
TEST(BlockDeathTest, AnIndexOutsideOfABufferEndsTheTest) {
  std::vector<float> from(64), out(64);
  Launch(&ReadsFar, Grid(1), 64, nullptr, from.data(), out.data(), 0);
  EXPECT_DEATH(Launch(&ReadsFar, Grid(1), 64, nullptr, from.data(), out.data(), 1), "heap-buffer-overflow");
}

// As a device adds to what it shares: the lower half at once, the upper ones in whatever order.
TEST(AddInHalvesTest, TheSumIsThatOf64BitsInAnyOrder) {
  const std::vector<uint64_t> values = {0,
                                        1,
                                        0xFFFFFFFF,
                                        0xFFFFFFFF,
                                        uint64_t{1} << 32,
                                        (uint64_t{1} << 44) - (1 << 20),
                                        (uint64_t{1} << 44) - 1,
                                        (uint64_t{1} << 62) + 5};
  unsigned halves[2] = {};
  uint64_t sum = 0;
  std::vector<unsigned> uppers;
  for (int times = 0; times < 3; ++times) {
    for (const uint64_t value : values) {
      sum += value;
      cuda::AddInHalves(halves, value, [&](unsigned* half, unsigned part) -> unsigned {
        if (half == halves) return std::exchange(*half, *half + part);
        uppers.push_back(part);
        return 0;
      });
    }
  }
  for (auto part = uppers.rbegin(); part != uppers.rend(); ++part) halves[1] += *part;
  EXPECT_EQ(uint64_t{halves[1]} << 32 | halves[0], sum);
}

// A row of the result for each block; `overlap`: its last element is the next block's first, too.
__global__ void WriteRows(float* rows, int overlap) {
  rows[blockIdx.x * (blockDim.x - static_cast<unsigned>(overlap)) + threadIdx.x] = 1.0f;
}
TEST(GlobalMemoryTest, BlocksThatWriteTheSameElementAreAFault) {
  std::vector<float> rows(3 * 64);
  const auto run = [&](int overlap) { Launch(&WriteRows, Grid(3), 64, nullptr, rows.data(), overlap); };
  EXPECT_NO_THROW(run(0));
  EXPECT_NO_THROW(run(0));  // a launch is behind the one before it
  EXPECT_THAT([&] { run(1); }, ThrowsMessage<KernelFault>(HasSubstr("thread 0 of block (1, 0, 0): writes 4 bytes at")));
  EXPECT_THAT([&] { run(1); }, ThrowsMessage<KernelFault>(HasSubstr("beside thread 63 of block 0")));
}

__global__ void ReadOfAnotherBlock(const int* from, int* to) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  to[i] = from[(i + 32) % (gridDim.x * blockDim.x)];
}
TEST(GlobalMemoryTest, ReadingWhatAnotherBlockWritesIsAFault) {
  std::vector<int> from(64), to(64);
  EXPECT_NO_THROW(Launch(&ReadOfAnotherBlock, Grid(2), 32, nullptr, from.data(), to.data()));
  EXPECT_THROW(Launch(&ReadOfAnotherBlock, Grid(2), 32, nullptr, to.data(), to.data()), KernelFault);
}

enum class Between { kNothing, kWarp, kBlock };
__global__ void Turn(int* values, int distance, Between between) {
  const unsigned i = threadIdx.x;
  values[i] = static_cast<int>(i);
  if (between == Between::kWarp) __syncwarp();
  if (between == Between::kBlock) __syncthreads();
  const int other = values[(i + static_cast<unsigned>(distance)) % blockDim.x];
  if (between == Between::kBlock) __syncthreads();
  if (other < 0) values[0] = 0;
}
TEST(GlobalMemoryTest, ABarrierOrdersThreadsOfABlockAndAWarpsOwnThoseOfAWarp) {
  std::vector<int> values(64);
  const auto run = [&](int distance, Between between) {
    Launch(&Turn, Grid(1), 64, nullptr, values.data(), distance, between);
  };
  EXPECT_NO_THROW(run(1, Between::kBlock));
  EXPECT_NO_THROW(run(32, Between::kBlock));
  EXPECT_NO_THROW(run(0, Between::kNothing));
  EXPECT_THROW(run(1, Between::kNothing), KernelFault);
  EXPECT_THROW(run(32, Between::kWarp), KernelFault);
}

__global__ void Count(int* counter, bool look) {
  atomicAdd(counter, 1);
  if (look && *counter == 0) atomicAdd(counter, 1);
}
TEST(GlobalMemoryTest, AtomicAdditionsRaceWithPlainAccessesAlone) {
  auto counter = std::make_unique<int>(0);
  EXPECT_NO_THROW(Launch(&Count, Grid(2), 32, nullptr, counter.get(), false));
  EXPECT_EQ(*counter, 64);
  EXPECT_THROW(Launch(&Count, Grid(2), 32, nullptr, counter.get(), true), KernelFault);
}

__global__ void LoadWide(const float* from, float* to) { *to = reinterpret_cast<const float4*>(from)->x; }
TEST(GlobalMemoryDeathTest, AWideLoadFromAnUnevenAddressIsAFault) {
  std::vector<float> from(8), to(1);
  Launch(&LoadWide, Grid(1), 1, nullptr, from.data() + 4, to.data());
  EXPECT_DEATH(Launch(&LoadWide, Grid(1), 1, nullptr, from.data() + 1, to.data()), "misaligned address");
}

}  // namespace
}  // namespace lorad::emulator
