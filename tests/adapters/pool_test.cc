#include "adapters/pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <set>

namespace lorad {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kPage = 4096;

BaseShape TinyShape() {
  BaseShape shape;
  shape.num_layers = 2;
  return shape;
}

// An adapter of `pages` pages with one pair, whose A begins its run.
PackedLayout LayoutOf(int64_t pages, int32_t rank = 4) {
  PackedLayout layout;
  layout.total_bytes = pages * kPage - 100;
  layout.slots.push_back(
      {.site = Site::kQProj, .layer = 1, .rank = rank, .scale = 0.5f, .a_offset_bytes = 0, .b_offset_bytes = 64});
  return layout;
}

class AdapterPoolTest : public testing::Test {
 protected:
  void MakePool(int64_t total_pages) {
    pages_ = std::move(PagePool::Create(total_pages * kPage, kPage)).value();
    pool_ = std::make_unique<AdapterPool>(pages_.get(), TinyShape());
  }
  // Loads an adapter whose first bytes are its id.
  void Load(AdapterId id, int64_t pages) {
    absl::StatusOr<AdapterReservation> reservation = pool_->Reserve(id, LayoutOf(pages));
    ASSERT_TRUE(reservation.ok()) << reservation.status();
    std::memcpy(reservation->data(), &id, sizeof(id));
    pool_->Commit(*std::move(reservation));
  }
  AdapterId IdInSlot(int32_t slot) const {
    AdapterId id = 0;
    std::memcpy(&id, pool_->slots().At(Site::kQProj, 1)[slot].a, sizeof(id));
    return id;
  }

  std::unique_ptr<PagePool> pages_;
  std::unique_ptr<AdapterPool> pool_;
};

TEST_F(AdapterPoolTest, AResidentAdapterIsFoundInItsSlotUntilItIsRemoved) {
  MakePool(8);
  Load(5, 2);
  EXPECT_TRUE(pool_->IsResident(5));
  EXPECT_EQ(pool_->evictable_pages(), 2);
  int32_t slot = -1;
  {
    const AdapterLease lease = pool_->Acquire(5).value();
    slot = lease.slot();
    EXPECT_EQ(pool_->slots().At(Site::kQProj, 1)[slot].rank, 4);
    EXPECT_EQ(pool_->slots().At(Site::kQProj, 1)[slot].scale, 0.5f);
    EXPECT_EQ(pool_->slots().At(Site::kKProj, 0)[slot], SlotWeights());
    EXPECT_EQ(IdInSlot(slot), 5);
    EXPECT_EQ(pool_->evictable_pages(), 0);
    EXPECT_EQ(pool_->Remove(5).code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_TRUE(pool_->Remove(5).ok());
  EXPECT_EQ(pool_->Remove(5).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(pool_->Acquire(5).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(pool_->slots().At(Site::kQProj, 1)[slot], SlotWeights());
  EXPECT_EQ(pages_->free_pages(), 8);
}

TEST_F(AdapterPoolTest, EvictsTheLeastRecentlyUsedIdleAdapter) {
  MakePool(6);
  Load(1, 2);
  Load(2, 2);
  Load(3, 2);
  { const AdapterLease used = pool_->Acquire(1).value(); }
  Load(4, 3);
  EXPECT_THAT(pool_->TakeEvicted(), ElementsAre(2, 3));
  EXPECT_TRUE(pool_->IsResident(1));
  EXPECT_THAT(pool_->TakeEvicted(), IsEmpty());
}

TEST_F(AdapterPoolTest, LeasedAndPinnedAdaptersStay) {
  MakePool(6);
  Load(1, 2);
  Load(2, 2);
  Load(3, 2);
  pool_->SetPinned(1, true);
  const AdapterLease lease = pool_->Acquire(2).value();
  Load(4, 2);
  EXPECT_THAT(pool_->TakeEvicted(), ElementsAre(3));
  EXPECT_EQ(pool_->evictable_pages(), 2);
  const absl::Status status = pool_->Reserve(5, LayoutOf(3)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(pool_->TakeEvicted(), IsEmpty()) << "nothing is evicted in vain";
  pool_->SetPinned(1, false);
  EXPECT_EQ(pool_->evictable_pages(), 4);
}

TEST_F(AdapterPoolTest, AnAdapterLargerThanThePoolIsTheCallersError) {
  MakePool(4);
  EXPECT_EQ(pool_->Reserve(1, LayoutOf(5)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(AdapterPoolTest, ADroppedReservationGivesItsPagesBack) {
  MakePool(4);
  { const AdapterReservation reservation = pool_->Reserve(1, LayoutOf(3)).value(); }
  EXPECT_EQ(pages_->free_pages(), 4);
  EXPECT_FALSE(pool_->IsResident(1));
}

TEST_F(AdapterPoolTest, SlotsAreUsedAgain) {
  MakePool(64);
  std::set<int32_t> slots;
  for (AdapterId id = 1; id <= 200; ++id) {
    Load(id, 1);
    slots.insert(pool_->Acquire(id).value().slot());
  }
  EXPECT_LE(slots.size(), 65u);
}

TEST_F(AdapterPoolTest, JoinsScatteredPagesAndKeepsTheSlotsAddressesRight) {
  MakePool(8);
  for (AdapterId id = 1; id <= 8; ++id) Load(id, 1);
  const AdapterLease two = pool_->Acquire(2).value();
  const AdapterLease five = pool_->Acquire(5).value();
  for (const AdapterId id : {1, 3, 4, 6, 7, 8}) ASSERT_TRUE(pool_->Remove(id).ok());
  Load(9, 6);
  EXPECT_THAT(pool_->TakeEvicted(), IsEmpty());
  EXPECT_EQ(IdInSlot(two.slot()), 2);
  EXPECT_EQ(IdInSlot(five.slot()), 5);
}

TEST_F(AdapterPoolTest, AReservationBeingPackedDoesNotMoveAndOthersGoAroundIt) {
  MakePool(8);
  Load(1, 1);
  Load(2, 3);
  AdapterReservation packing = pool_->Reserve(3, LayoutOf(1)).value();  // page 3
  std::byte* const place = packing.data();
  Load(4, 3);
  EXPECT_TRUE(pool_->Remove(1).ok());
  Load(5, 4);  // 4 pages free only when the idle adapters on one side of it are gone
  EXPECT_EQ(packing.data(), place);
  EXPECT_FALSE(pool_->TakeEvicted().empty());
}

// The pool is one: KV takes what idle adapters hold, adapters take what KV leaves, page by page.
TEST_F(AdapterPoolTest, KvAndAdaptersBorrowTheSamePagesFromEachOther) {
  MakePool(32);
  for (AdapterId id = 1; id <= 4; ++id) Load(id, 8);
  EXPECT_EQ(pages_->free_pages(), 0);
  for (int64_t page = 0; page < 32; ++page) EXPECT_EQ(pages_->OwnerOf(page), PageOwner::kAdapter);

  std::deque<PageRun> kv;  // blocks of two pages
  while (true) {
    absl::StatusOr<PageRun> block = pages_->Reserve(2, PageOwner::kKv);
    if (!block.ok()) {
      if (pool_->EvictUntilFree(2).empty()) break;
      continue;
    }
    kv.push_back(*std::move(block));
  }
  EXPECT_EQ(pool_->resident_count(), 0);
  EXPECT_THAT(pool_->TakeEvicted(), ElementsAre(1, 2, 3, 4));
  for (int64_t page = 0; page < 32; ++page) EXPECT_EQ(pages_->OwnerOf(page), PageOwner::kKv);

  EXPECT_EQ(pool_->Reserve(5, LayoutOf(8)).status().code(), absl::StatusCode::kResourceExhausted);
  for (int i = 0; i < 4; ++i) kv.pop_front();  // sequences end: eight pages at the low end
  Load(5, 8);
  const AdapterLease lease = pool_->Acquire(5).value();
  EXPECT_EQ(pages_->Reserve(1, PageOwner::kKv).status().code(), absl::StatusCode::kResourceExhausted)
      << "KV admission has shrunk";
  EXPECT_EQ(pages_->used_pages(PageOwner::kKv), 24);
  EXPECT_EQ(pages_->used_pages(PageOwner::kAdapter), 8);
}

TEST_F(AdapterPoolTest, AThousandLoadsAndUnloadsLeaveNoPageOwned) {
  MakePool(40);
  std::mt19937 random(7);
  std::deque<AdapterLease> leases;
  std::deque<PageRun> kv;
  for (AdapterId id = 1; id <= 1000; ++id) {
    absl::StatusOr<AdapterReservation> reservation =
        pool_->Reserve(id, LayoutOf(1 + static_cast<int64_t>(random() % 6)));
    if (reservation.ok()) {
      std::memcpy(reservation->data(), &id, sizeof(id));
      pool_->Commit(*std::move(reservation));
      leases.push_back(pool_->Acquire(id).value());
      EXPECT_EQ(IdInSlot(leases.back().slot()), id);
    } else {
      ASSERT_EQ(reservation.status().code(), absl::StatusCode::kResourceExhausted);
    }
    if (absl::StatusOr<PageRun> block = pages_->Reserve(1, PageOwner::kKv); block.ok()) kv.push_back(*std::move(block));
    while (leases.size() > 4) leases.pop_front();
    while (kv.size() > 10) kv.pop_front();
    if (random() % 3 == 0) (void)pool_->Remove(id - random() % 5);
  }
  leases.clear();
  kv.clear();
  pool_->EvictUntilFree(40);
  EXPECT_EQ(pages_->free_pages(), 40);
  EXPECT_EQ(pages_->largest_free_run(), 40);
  EXPECT_EQ(pool_->resident_count(), 0);
}

}  // namespace
}  // namespace lorad
