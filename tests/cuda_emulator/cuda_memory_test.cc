// What the pool's memory asks of the runtime, where that holds steps up on a device: locks, long copies, waits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "model/memory/pool_memory.h"
#include "tests/cuda_emulator/runtime_calls.h"
#include "tests/device/device_bytes.h"
#include "tests/device/test_device.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using emulator::runtime_calls;

constexpr int64_t kPage = 4096;

// No two pages alike.
std::byte ByteAt(int64_t at) { return static_cast<std::byte>(at * 7 + at / kPage * 13); }
std::vector<std::byte> Bytes(int64_t begin, int64_t count) {
  std::vector<std::byte> bytes(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) bytes[static_cast<size_t>(i)] = ByteAt(begin + i);
  return bytes;
}

class CudaMemoryTest : public testing::Test {
 protected:
  void Send(PieceCopier& copier, int64_t begin, int64_t count) {
    const std::vector<std::byte> bytes = Bytes(begin, count);
    std::copy(bytes.begin(), bytes.end(), copier.Next(count).value());
    ASSERT_THAT(copier.Send(memory_->data() + begin), IsOk());
  }
  void Write(int64_t begin, int64_t count) {
    const std::unique_ptr<PieceCopier> copier = memory_->NewCopier().value();
    Send(*copier, begin, count);
    ASSERT_THAT(copier->Finish(), IsOk());
  }

  const std::unique_ptr<PoolMemory> memory_ = TestDeviceMemory().create(int64_t{16} << 20).value();
};

TEST_F(CudaMemoryTest, ALargeSlotIsCopiedInPiecesAndNothingIsLocked) {
  runtime_calls.Reset();
  const std::unique_ptr<PieceCopier> copier = memory_->NewCopier().value();
  const std::vector<int64_t> sizes = {1000, 9 << 20, 3 * kPage, (4 << 20) + 1};
  int64_t at = 0;
  for (const int64_t bytes : sizes) {
    Send(*copier, at, bytes);
    at += bytes;
  }
  ASSERT_THAT(copier->Finish(), IsOk());
  EXPECT_EQ(runtime_calls.host_locks, 0);
  EXPECT_LE(runtime_calls.most_copied_bytes, 4 << 20);
  EXPECT_EQ(Read(memory_->data(), at), Bytes(0, at));
}

// 256 KiB of scratch for a pool of 16 MiB.
TEST_F(CudaMemoryTest, ARunMovesInLargePiecesHoweverShortTheWay) {
  constexpr int64_t kRun = 400 * kPage + 40;
  for (const int64_t way : {1, 63, 64, 65, 390}) {
    for (const bool up : {false, true}) {
      SCOPED_TRACE(testing::Message() << way << (up ? " pages up" : " pages down"));
      const int64_t from = up ? kPage : kPage + way * kPage, to = up ? kPage + way * kPage : kPage;
      Write(from, kRun);
      runtime_calls.Reset();
      memory_->Move(memory_->data() + to, memory_->data() + from, kRun);
      EXPECT_EQ(runtime_calls.waits, 1);
      EXPECT_LE(runtime_calls.copies, 2 * (kRun / (64 * kPage) + 1));
      EXPECT_EQ(Read(memory_->data() + to, kRun), Bytes(from, kRun));
    }
  }
}

TEST_F(CudaMemoryTest, NeighboursChangePlacesOnTheDevice) {
  for (const auto& [lower, upper] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {500, 2}, {2, 500}, {500, 64}, {64, 500}, {3, 64}, {60, 61}}) {
    SCOPED_TRACE(testing::Message() << lower << " and " << upper << " pages");
    const int64_t lower_bytes = lower * kPage, upper_bytes = upper * kPage;
    Write(0, lower_bytes + upper_bytes);
    runtime_calls.Reset();
    memory_->Swap(memory_->data(), lower_bytes, upper_bytes);
    EXPECT_EQ(runtime_calls.waits, 1);
    EXPECT_EQ(Read(memory_->data(), upper_bytes), Bytes(lower_bytes, upper_bytes));
    EXPECT_EQ(Read(memory_->data() + upper_bytes, lower_bytes), Bytes(0, lower_bytes));
  }
  Write(0, 300 * kPage);  // neither fits the scratch: by the host
  memory_->Swap(memory_->data(), 200 * kPage, 100 * kPage);
  EXPECT_EQ(Read(memory_->data(), 100 * kPage), Bytes(200 * kPage, 100 * kPage));
  EXPECT_EQ(Read(memory_->data() + 100 * kPage, 200 * kPage), Bytes(0, 200 * kPage));
}

// A mapping and its undoing for each chunk, whatever the driver takes; access to all of them at once.
TEST_F(CudaMemoryTest, ChunksThatComeBackTogetherAreMadeAccessibleByOneCall) {
  constexpr int64_t kFirst = 100, kChunks = 64;
  ASSERT_EQ(memory_->chunk_bytes(), kPage);
  std::byte* const at = memory_->data() + kFirst * kPage;
  runtime_calls.Reset();
  memory_->Release(at, kChunks * kPage);
  EXPECT_EQ(runtime_calls.mappings, kChunks);
  EXPECT_EQ(runtime_calls.accesses_set, 0);
  EXPECT_EQ(memory_->Restore(at, kChunks * kPage), kChunks * kPage);
  EXPECT_EQ(runtime_calls.mappings, 2 * kChunks);
  EXPECT_EQ(runtime_calls.accesses_set, 1);
  Write(kFirst * kPage, kChunks * kPage);
  EXPECT_EQ(Read(at, kChunks * kPage), Bytes(kFirst * kPage, kChunks * kPage));
}

}  // namespace
}  // namespace lorad
