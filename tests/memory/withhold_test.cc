// Pages that are withheld, and the chunks of them that go back to a device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "model/memory/page_pool.h"
#include "tests/support/chunked_memory.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr int64_t kPage = 128;

void IgnoreMoves(PageOwner) {}

struct ChunkedPool {
  ChunkedPool(int64_t pages, int64_t chunk_bytes) {
    auto owned = std::make_unique<ChunkedMemory>(pages * kPage, chunk_bytes);
    memory = owned.get();
    pool = PagePool::Create(std::move(owned), kPage).value();
  }
  ChunkedMemory* memory;
  std::unique_ptr<PagePool> pool;
};

TEST(WithholdTest, OnlyWholeChunksOfWhatIsWithheldAreReleasedAndComeBack) {
  ChunkedPool chunked(/*pages=*/14, /*chunk_bytes=*/4 * kPage);  // the last is half a chunk
  PagePool& pool = *chunked.pool;
  for (const auto& [withheld, released] : {std::pair{1, 0}, {3, 2}, {5, 2}, {6, 6}, {14, 14}, {7, 6}, {2, 2}, {0, 0}}) {
    ASSERT_THAT(pool.Withhold(withheld, IgnoreMoves), IsOk());
    EXPECT_EQ(chunked.memory->released_bytes(), released * kPage) << withheld;
    EXPECT_EQ(pool.withheld_pages(), withheld);
    EXPECT_EQ(pool.free_pages(), 14 - withheld);
    EXPECT_EQ(pool.largest_free_run(), 14 - released);
  }
}

TEST(WithholdTest, WhatIsScatteredIsMovedOutOfTheReleasedPages) {
  ChunkedPool chunked(/*pages=*/16, /*chunk_bytes=*/4 * kPage);
  PagePool& pool = *chunked.pool;
  std::vector<PageRun> kv;
  for (int i = 0; i < 8; ++i) kv.push_back(pool.Reserve(1, PageOwner::kKv).value());
  PageRun large = pool.Reserve(5, PageOwner::kAdapter).value();
  PageRun small = pool.Reserve(3, PageOwner::kAdapter).value();
  std::memset(large.data(), 'l', 5 * kPage);
  std::memset(small.data(), 's', 3 * kPage);
  for (const size_t even : {0, 2, 4, 6}) kv[even] = PageRun();
  for (const size_t odd : {1, 3, 5, 7}) std::memset(kv[odd].data(), static_cast<int>(odd), kPage);
  int moves[2] = {0, 0};
  ASSERT_THAT(pool.Withhold(4, [&](PageOwner owner) { ++moves[static_cast<int>(owner)]; }), IsOk());
  EXPECT_EQ(chunked.memory->released_bytes(), 4 * kPage);
  EXPECT_EQ(pool.free_pages(), 0);
  EXPECT_GT(moves[0], 0);
  EXPECT_EQ(moves[1], 2);  // both adapters
  EXPECT_EQ(std::count(large.data(), large.data() + 5 * kPage, std::byte{'l'}), 5 * kPage);
  EXPECT_EQ(std::count(small.data(), small.data() + 3 * kPage, std::byte{'s'}), 3 * kPage);
  for (const size_t odd : {1, 3, 5, 7}) {
    EXPECT_EQ(std::count(kv[odd].data(), kv[odd].data() + kPage, std::byte(odd)), kPage);
  }
}

TEST(WithholdTest, WhatTheDeviceDoesNotGiveBackStaysWithheldUntilItDoes) {
  ChunkedPool chunked(/*pages=*/16, /*chunk_bytes=*/3 * kPage / 2);  // a chunk ends within a page
  PagePool& pool = *chunked.pool;
  ASSERT_THAT(pool.Withhold(10, IgnoreMoves), IsOk());
  EXPECT_EQ(pool.released_pages(), 10);  // of pages 6, 9, 12 and 15 on
  chunked.memory->device_chunks = 3;
  ASSERT_THAT(pool.Withhold(1, IgnoreMoves), IsOk());
  EXPECT_EQ(pool.withheld_pages(), 7);  // two chunks are three pages, and the third serves nobody
  EXPECT_EQ(chunked.memory->released_bytes(), 7 * kPage);
  EXPECT_EQ(pool.free_pages(), 9);
  EXPECT_FALSE(pool.Reserve(10, PageOwner::kKv).ok());
  ASSERT_THAT(pool.Withhold(1, IgnoreMoves), IsOk());
  EXPECT_EQ(pool.withheld_pages(), 7);  // there is none yet
  chunked.memory->device_chunks = -1;
  ASSERT_THAT(pool.Withhold(1, IgnoreMoves), IsOk());
  EXPECT_EQ(pool.withheld_pages(), 1);
  EXPECT_EQ(chunked.memory->released_bytes(), kPage);  // that of the last page, a chunk of its own
}

TEST(WithholdTest, NothingIsWithheldWhileARunInTheWayCannotBeMoved) {
  ChunkedPool chunked(/*pages=*/12, /*chunk_bytes=*/2 * kPage);
  PagePool& pool = *chunked.pool;
  PageRun packing = pool.Reserve(2, PageOwner::kAdapter).value();
  packing.SetMovable(false);
  EXPECT_THAT(pool.Withhold(4, IgnoreMoves),
              IsError(absl::StatusCode::kResourceExhausted, testing::HasSubstr("retry later")));
  EXPECT_EQ(pool.withheld_pages(), 0);
  EXPECT_EQ(chunked.memory->released_bytes(), 0);
  ASSERT_THAT(pool.Withhold(1, IgnoreMoves), IsOk());  // less than a chunk is only counted
  packing.SetMovable(true);
  ASSERT_THAT(pool.Withhold(4, IgnoreMoves), IsOk());
  EXPECT_EQ(packing.first_page(), 6);
}

}  // namespace
}  // namespace lorad
