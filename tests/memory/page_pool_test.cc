#include "model/memory/page_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "tests/support/chunked_memory.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr int64_t kPage = 128;

std::unique_ptr<PagePool> MakePool(int64_t pages) { return std::move(PagePool::Create(pages * kPage, kPage)).value(); }

void IgnoreMoves(PageOwner) {}

TEST(PagePoolTest, KvGrowsFromTheLowEndAndAdaptersFromTheHighEnd) {
  auto pool = MakePool(10);
  const PageRun kv = pool->Reserve(2, PageOwner::kKv).value();
  const PageRun adapter = pool->Reserve(3, PageOwner::kAdapter).value();
  EXPECT_EQ(kv.first_page(), 0);
  EXPECT_EQ(adapter.first_page(), 7);
  EXPECT_EQ(pool->free_pages(), 5);
  EXPECT_EQ(pool->used_pages(PageOwner::kKv), 2);
  EXPECT_EQ(pool->used_pages(PageOwner::kAdapter), 3);
  EXPECT_EQ(pool->OwnerOf(8), PageOwner::kAdapter);
  EXPECT_TRUE(pool->IsFree(4));
}

TEST(PagePoolTest, APageChangesOwnerWhenTheOtherSideBorrowsIt) {
  auto pool = MakePool(4);
  {
    const PageRun kv = pool->Reserve(4, PageOwner::kKv).value();
    EXPECT_EQ(pool->OwnerOf(3), PageOwner::kKv);
    EXPECT_FALSE(pool->Reserve(1, PageOwner::kAdapter).ok());
  }
  const PageRun adapter = pool->Reserve(4, PageOwner::kAdapter).value();
  for (int64_t page = 0; page < 4; ++page) EXPECT_EQ(pool->OwnerOf(page), PageOwner::kAdapter);
}

TEST(PagePoolTest, AFullPoolSaysWhatWasWantedAndWhatIsFree) {
  auto pool = MakePool(4);
  const PageRun kv = pool->Reserve(3, PageOwner::kKv).value();
  const absl::Status status = pool->Reserve(2, PageOwner::kAdapter).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("wanted: 2; free: 1; largest hole: 1"));
}

TEST(PagePoolTest, RefusesSizesThatMakeNoPool) {
  EXPECT_EQ(PagePool::Create(1000, 100).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PagePool::Create(63, 64).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PagePool::Create(-1, 64).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PagePoolTest, CompactionCrossesTheSidesWhenTheyAreInEachOthersPlace) {
  auto pool = MakePool(12);
  PageRun low = pool->Reserve(1, PageOwner::kKv).value();           // 0
  PageRun filler = pool->Reserve(8, PageOwner::kKv).value();        // 1..8
  PageRun adapter = pool->Reserve(3, PageOwner::kAdapter).value();  // 9..11
  filler = PageRun();
  PageRun trapped = pool->Reserve(7, PageOwner::kAdapter).value();  // 2..8
  adapter = PageRun();
  PageRun kv_above = pool->Reserve(2, PageOwner::kKv).value();  // 9..10: the hole at 1 is too small
  ASSERT_EQ(kv_above.first_page(), 9);
  std::memset(trapped.data(), 't', 7 * kPage);
  std::memset(kv_above.data(), 'k', 2 * kPage);

  EXPECT_FALSE(pool->Compact(1 << 20, IgnoreMoves));
  EXPECT_EQ(pool->largest_free_run(), pool->free_pages());
  EXPECT_EQ(std::count(trapped.data(), trapped.data() + 7 * kPage, std::byte{'t'}), 7 * kPage);
  EXPECT_EQ(std::count(kv_above.data(), kv_above.data() + 2 * kPage, std::byte{'k'}), 2 * kPage);
  EXPECT_LT(kv_above.first_page(), trapped.first_page());
}

TEST(PagePoolTest, CompactionKeepsToItsBudgetButMovesAtLeastOneRun) {
  auto pool = MakePool(8);
  std::vector<PageRun> kv;
  for (int i = 0; i < 8; ++i) kv.push_back(pool->Reserve(1, PageOwner::kKv).value());
  kv[0] = PageRun();
  kv[1] = PageRun();
  kv[2] = PageRun();
  kv[5] = PageRun();
  int moves = 0;
  const auto count = [&](PageOwner) { ++moves; };
  EXPECT_TRUE(pool->Compact(/*max_bytes=*/1, count));
  EXPECT_EQ(moves, 1);
  EXPECT_FALSE(pool->Compact(/*max_bytes=*/2 * kPage, count));
  EXPECT_LE(moves, 3);
  EXPECT_EQ(pool->largest_free_run(), 4);
}

TEST(PagePoolTest, AnImmovableRunStaysWhereItIs) {
  auto pool = MakePool(8);
  PageRun top = pool->Reserve(2, PageOwner::kAdapter).value();
  PageRun packing = pool->Reserve(2, PageOwner::kAdapter).value();
  packing.SetMovable(false);
  top = PageRun();
  EXPECT_FALSE(pool->Compact(1 << 20, IgnoreMoves));
  EXPECT_EQ(packing.first_page(), 4);
  packing.SetMovable(true);
  EXPECT_FALSE(pool->Compact(1 << 20, IgnoreMoves));
  EXPECT_EQ(packing.first_page(), 6);
}

// Random traffic against a model that keeps each run's pattern and nothing else.
class PagePoolPropertyTest : public testing::TestWithParam<int> {};

struct Held {
  PageRun run;
  PageOwner owner;
  std::byte pattern;
  bool movable = true;
};

void CheckAgainstModel(const PagePool& pool, const std::map<int, Held>& model, int64_t total_pages) {
  const int64_t arena_pages = total_pages - pool.released_pages();
  ASSERT_LE(pool.released_pages(), pool.withheld_pages());
  std::vector<int> owner_of_page(total_pages, -1);
  int64_t used[2] = {0, 0};
  for (const auto& [key, held] : model) {
    used[static_cast<int>(held.owner)] += held.run.pages();
    for (int64_t p = held.run.first_page(); p < held.run.first_page() + held.run.pages(); ++p) {
      ASSERT_EQ(owner_of_page[p], -1) << "two runs own page " << p;
      ASSERT_LT(p, arena_pages) << "a run lies where no memory is";
      owner_of_page[p] = static_cast<int>(held.owner);
    }
    ASSERT_EQ(std::count(held.run.data(), held.run.data() + held.run.pages() * kPage, held.pattern),
              held.run.pages() * kPage);
  }
  int64_t free = 0, hole = 0, largest = 0;
  for (int64_t p = 0; p < total_pages; ++p) {
    ASSERT_EQ(pool.IsFree(p), owner_of_page[p] < 0);
    if (owner_of_page[p] >= 0) {
      ASSERT_EQ(static_cast<int>(pool.OwnerOf(p)), owner_of_page[p]);
    }
    hole = owner_of_page[p] < 0 && p < arena_pages ? hole + 1 : 0;
    free += owner_of_page[p] < 0;
    largest = std::max(largest, hole);
  }
  ASSERT_EQ(pool.free_pages() + pool.withheld_pages(), free);
  ASSERT_EQ(pool.largest_free_run(), largest);
  ASSERT_EQ(pool.used_pages(PageOwner::kKv), used[0]);
  ASSERT_EQ(pool.used_pages(PageOwner::kAdapter), used[1]);
}

TEST_P(PagePoolPropertyTest, KeepsOwnersAndContentsUnderRandomTraffic) {
  std::mt19937 random(GetParam());
  const int64_t total = 40 + GetParam() % 25;
  const int64_t kv_pages = 1 + GetParam() % 3;
  // Memory that stays, and chunks of which several are pages, or several pages a chunk.
  const int64_t chunk_bytes = std::array{int64_t{0}, kPage / 2, 3 * kPage / 2, 4 * kPage}[GetParam() % 4];
  std::unique_ptr<PagePool> pool;
  ChunkedMemory* device = nullptr;
  if (chunk_bytes == 0) {
    pool = MakePool(total);
  } else {
    auto memory = std::make_unique<ChunkedMemory>(total * kPage, chunk_bytes);
    device = memory.get();
    pool = PagePool::Create(std::move(memory), kPage).value();
  }
  std::map<int, Held> model;
  std::set<std::pair<int64_t, PageOwner>> page_had_owner;
  for (int step = 0; step < 400; ++step) {
    const int action = static_cast<int>(random() % 11);
    if (action < 5) {
      const PageOwner owner = random() % 2 == 0 ? PageOwner::kKv : PageOwner::kAdapter;
      const int64_t pages = owner == PageOwner::kKv ? kv_pages : 1 + static_cast<int64_t>(random() % 9);
      const bool fits = pool->largest_free_run() >= pages && pool->free_pages() >= pages;
      absl::StatusOr<PageRun> run = pool->Reserve(pages, owner);
      ASSERT_EQ(run.ok(), fits);
      if (!run.ok()) continue;
      const std::byte pattern{static_cast<unsigned char>(step)};
      std::fill_n(run->data(), pages * kPage, pattern);
      Held held{.run = *std::move(run), .owner = owner, .pattern = pattern};
      if (owner == PageOwner::kAdapter && random() % 4 == 0) {
        held.movable = false;
        held.run.SetMovable(false);
      }
      for (int64_t p = 0; p < pages; ++p) page_had_owner.insert({held.run.first_page() + p, owner});
      model.emplace(step, std::move(held));
    } else if (action < 8) {
      if (model.empty()) continue;
      model.erase(std::next(model.begin(), static_cast<int64_t>(random() % model.size())));
    } else if (action == 10) {
      const int64_t before = pool->withheld_pages(), wanted = static_cast<int64_t>(random() % 20);
      if (device != nullptr) device->device_chunks = random() % 2 == 0 ? -1 : static_cast<int64_t>(random() % 8);
      const absl::Status status = pool->Withhold(wanted, IgnoreMoves);
      const bool fixed = std::any_of(model.begin(), model.end(), [](const auto& held) { return !held.second.movable; });
      if (!status.ok()) {
        ASSERT_TRUE(wanted > before && (fixed || wanted - before > pool->free_pages())) << status;
        ASSERT_EQ(pool->withheld_pages(), before);
      } else if (device == nullptr || device->device_chunks < 0) {
        ASSERT_EQ(pool->withheld_pages(), wanted);
      } else {
        ASSERT_GE(pool->withheld_pages(), wanted);
        ASSERT_LE(pool->withheld_pages(), std::max(wanted, before));
      }
      if (device != nullptr) {
        ASSERT_EQ(device->released_bytes(), pool->released_pages() * kPage);
        ASSERT_GT(std::lcm(chunk_bytes, kPage), (pool->withheld_pages() - pool->released_pages()) * kPage);
      }
    } else {
      std::map<int, int64_t> fixed;
      for (const auto& [key, held] : model) {
        if (!held.movable) fixed[key] = held.run.first_page();
      }
      const bool whole = random() % 2 == 0;
      const bool more = pool->Compact(whole ? 1 << 30 : 3 * kPage, IgnoreMoves);
      ASSERT_FALSE(whole && more);
      if (whole && fixed.empty()) {
        ASSERT_EQ(pool->largest_free_run(), pool->free_pages() + pool->withheld_pages() - pool->released_pages());
      }
      for (const auto& [key, first_page] : fixed) ASSERT_EQ(model.at(key).run.first_page(), first_page);
    }
    CheckAgainstModel(*pool, model, total);
    if (HasFatalFailure()) FAIL() << "seed " << GetParam() << ", step " << step;
  }
  // Many pages had both owners at some time: neither side has pages of its own.
  int64_t shared = 0;
  for (int64_t p = 0; p < total; ++p) {
    shared += page_had_owner.count({p, PageOwner::kKv}) + page_had_owner.count({p, PageOwner::kAdapter}) == 2;
  }
  EXPECT_GT(shared, 0) << "seed " << GetParam();
  model.clear();
  if (device != nullptr) device->device_chunks = -1;
  ASSERT_THAT(pool->Withhold(0, IgnoreMoves), IsOk());
  EXPECT_EQ(pool->free_pages(), total);
  EXPECT_EQ(pool->largest_free_run(), total);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PagePoolPropertyTest, testing::Range(1, 61));

}  // namespace
}  // namespace lorad
