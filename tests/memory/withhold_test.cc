// Pages that are withheld, and the chunks of them that go back to a device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
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

// What of a device's memory came or went, and what was copied, since it was last asked.
class CountingMemory final : public PoolMemory {
 public:
  CountingMemory(int64_t bytes, int64_t chunk_bytes)
      : CountingMemory(std::make_unique<ChunkedMemory>(bytes, chunk_bytes)) {}
  bool on_host() const override { return true; }
  void Move(std::byte* to, const std::byte* from, int64_t bytes) override {
    ++runs;
    copied_bytes += bytes;
    memory_->Move(to, from, bytes);
  }
  void Swap(std::byte* first, int64_t lower_bytes, int64_t upper_bytes) override {
    ++runs;
    copied_bytes += lower_bytes + upper_bytes;
    memory_->Swap(first, lower_bytes, upper_bytes);
  }
  void Discard(std::byte*, int64_t) override {}
  absl::StatusOr<std::unique_ptr<PieceCopier>> NewCopier() override { return memory_->NewCopier(); }
  std::shared_ptr<void> SharedWithHost(int64_t bytes) override { return memory_->SharedWithHost(bytes); }
  int64_t chunk_bytes() const override { return memory_->chunk_bytes(); }
  void Release(std::byte* at, int64_t bytes) override {
    chunks += bytes / chunk_bytes();
    memory_->Release(at, bytes);
  }
  int64_t Restore(std::byte* at, int64_t bytes) override {
    chunks += bytes / chunk_bytes();
    return memory_->Restore(at, bytes);
  }

  int64_t runs = 0;
  int64_t copied_bytes = 0;
  int64_t chunks = 0;

 private:
  explicit CountingMemory(std::unique_ptr<ChunkedMemory> memory)
      : PoolMemory(memory->data(), memory->bytes()), memory_(std::move(memory)) {}
  const std::unique_ptr<ChunkedMemory> memory_;
};

// Runs of random sizes, some of which go and come between two turns; each has a pattern of its own.
class BusyPool final {
 public:
  static constexpr int64_t kPages = 96, kChunkPages = 4, kMostRunPages = 6;

  explicit BusyPool(uint64_t seed) : random_(seed) {
    auto owned = std::make_unique<CountingMemory>(kPages * kPage, kChunkPages * kPage);
    memory = owned.get();
    pool = PagePool::Create(std::move(owned), kPage).value();
    for (int i = 0; i < 60; ++i) Disturb();
  }

  void Disturb() {
    if (!runs_.empty() && Draw(2) == 0) {
      runs_.erase(runs_.begin() + static_cast<int64_t>(Draw(runs_.size())));
      return;
    }
    const bool kv = Draw(2) == 0;
    auto run = pool->Reserve(kv ? 2 : 1 + static_cast<int64_t>(Draw(kMostRunPages)),
                             kv ? PageOwner::kKv : PageOwner::kAdapter);
    if (!run.ok()) return;
    const auto pattern = static_cast<std::byte>(++patterns_);
    std::fill_n(run->data(), run->pages() * kPage, pattern);
    runs_.emplace_back(*std::move(run), pattern);
  }
  // Nobody has what is not his, or lies above `end_page`.
  void Check(int64_t end_page) const {
    int64_t pages = 0;
    for (const auto& [run, pattern] : runs_) {
      pages += run.pages();
      ASSERT_EQ(std::count(run.data(), run.data() + run.pages() * kPage, pattern), run.pages() * kPage);
      ASSERT_LE(run.first_page() + run.pages(), end_page);
    }
    ASSERT_EQ(pages + pool->free_pages() + pool->withheld_pages(), kPages);
  }
  uint64_t Draw(uint64_t below) { return random_() % below; }

  CountingMemory* memory;
  std::unique_ptr<PagePool> pool;

 private:
  std::mt19937_64 random_;
  std::vector<std::pair<PageRun, std::byte>> runs_;
  int patterns_ = 0;
};

TEST(WithholdTest, ATurnKeepsItsBudgetAndAllEndsWhateverOthersDoMeanwhile) {
  constexpr PagePool::TurnBudget kTurn = {.bytes = 8 * kPage, .runs = 3, .chunks = 2};
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    BusyPool busy(seed);
    PagePool& pool = *busy.pool;
    for (int change = 0; change < 6; ++change) {
      const int64_t most = pool.withheld_pages() + pool.free_pages();
      const auto pages = static_cast<int64_t>(busy.Draw(static_cast<uint64_t>(most) + 1));
      const auto given_up_after = static_cast<int>(busy.Draw(2) == 0 ? busy.Draw(6) : 1000);
      absl::StatusOr<bool> done = false;
      int turns = 0;
      for (; !*done && turns < given_up_after; ++turns) {
        ASSERT_LT(turns, 400);
        busy.memory->runs = busy.memory->copied_bytes = busy.memory->chunks = 0;
        done = pool.Withhold(pages, kTurn, IgnoreMoves);
        ASSERT_THAT(done, IsOk());
        EXPECT_LE(busy.memory->runs, kTurn.runs);
        EXPECT_LE(busy.memory->copied_bytes, std::max(kTurn.bytes, (BusyPool::kMostRunPages + 2) * kPage));
        EXPECT_LE(busy.memory->chunks, kTurn.chunks);
        EXPECT_GE(pool.withheld_pages(), pages);
        busy.Check(BusyPool::kPages - pool.released_pages());
        for (int i = 0; i < 3; ++i) busy.Disturb();
      }
      if (!*done) continue;  // another number comes in the middle
      EXPECT_EQ(pool.withheld_pages(), pages);
      EXPECT_EQ(pool.released_pages(), pages / BusyPool::kChunkPages * BusyPool::kChunkPages);
    }
    ASSERT_THAT(pool.Withhold(0, IgnoreMoves), IsOk());
    EXPECT_EQ(pool.released_pages(), 0);
    busy.Check(BusyPool::kPages);
  }
}

TEST(WithholdTest, NobodyGetsAPageThatIsToGo) {
  ChunkedPool chunked(/*pages=*/16, /*chunk_bytes=*/2 * kPage);
  PagePool& pool = *chunked.pool;
  std::vector<PageRun> adapters;
  for (int i = 0; i < 4; ++i) adapters.push_back(pool.Reserve(2, PageOwner::kAdapter).value());
  constexpr PagePool::TurnBudget kTurn = {.bytes = kPage, .runs = 1, .chunks = 1};
  ASSERT_THAT(pool.Withhold(6, kTurn, IgnoreMoves), IsOk());
  EXPECT_EQ(pool.free_pages(), 2);
  adapters[3] = PageRun();  // at page 8, below what goes
  adapters[1] = PageRun();  // at page 12, above
  EXPECT_EQ(pool.free_pages(), 6);
  const PageRun taken = pool.Reserve(2, PageOwner::kAdapter).value();
  EXPECT_LE(taken.first_page() + taken.pages(), 10);
  EXPECT_FALSE(pool.Reserve(6, PageOwner::kKv).ok());
}

}  // namespace
}  // namespace lorad
