#include "adapters/warm_adapters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace lorad {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kPage = 4096;

PackedLayout LayoutOf(int64_t pages) {
  PackedLayout layout;
  layout.total_bytes = pages * kPage - 100;
  return layout;
}

// Makes and fills it.
void Keep(AdapterId id, int64_t pages, WarmAdapters* warm) {
  ASSERT_NE(warm->Make(id, LayoutOf(pages)), nullptr);
  ASSERT_TRUE(warm->SetFilled(id));
}

TEST(WarmAdaptersTest, WhatWasUsedLongestAgoMakesRoom) {
  WarmAdapters warm(10 * kPage);
  for (const AdapterId id : {1, 2, 3}) Keep(id, 3, &warm);
  EXPECT_EQ(warm.bytes(), 9 * kPage);
  EXPECT_THAT(warm.TakeDropped(), IsEmpty());
  warm.Touch(1);
  Keep(4, 4, &warm);
  EXPECT_THAT(warm.TakeDropped(), ElementsAre(2));
  EXPECT_EQ(warm.Find(2), nullptr);
  EXPECT_NE(warm.Find(1), nullptr);
  EXPECT_EQ(warm.bytes(), 10 * kPage);
  Keep(5, 7, &warm);
  EXPECT_THAT(warm.TakeDropped(), ElementsAre(3, 1, 4));
  EXPECT_EQ(warm.count(), 1);
  EXPECT_EQ(warm.bytes(), 7 * kPage);
}

TEST(WarmAdaptersTest, OneThatIsLargerThanTheLimitIsPassedByAndPushesNobodyOut) {
  WarmAdapters warm(4 * kPage);
  Keep(1, 4, &warm);
  EXPECT_EQ(warm.Make(2, LayoutOf(5)), nullptr);
  EXPECT_FALSE(warm.Has(2));
  EXPECT_FALSE(warm.SetFilled(2));
  EXPECT_NE(warm.Find(1), nullptr);
  WarmAdapters nothing(0);
  EXPECT_EQ(nothing.Make(1, LayoutOf(1)), nullptr);
}

TEST(WarmAdaptersTest, OneIsFoundOnceItIsWritten) {
  WarmAdapters warm(4 * kPage);
  const std::shared_ptr<PackedAdapter> making = warm.Make(1, LayoutOf(2));
  EXPECT_EQ(making->layout.total_bytes, 2 * kPage - 100);
  EXPECT_EQ(warm.Find(1), nullptr);
  EXPECT_TRUE(warm.Has(1));
  std::fill_n(making->memory->data(), making->layout.total_bytes, std::byte{7});
  EXPECT_TRUE(warm.SetFilled(1));
  EXPECT_EQ(warm.Find(1), making);
}

TEST(WarmAdaptersTest, WhoCopiesFromOneThatIsDroppedHoldsItsBytesToTheEnd) {
  WarmAdapters warm(4 * kPage);
  std::shared_ptr<PackedAdapter> made = warm.Make(1, LayoutOf(4));
  std::fill_n(made->memory->data(), made->layout.total_bytes, std::byte{7});
  warm.SetFilled(1);
  made.reset();
  std::shared_ptr<const PackedAdapter> copied = warm.Find(1);
  const std::weak_ptr<const PackedAdapter> watch = copied;
  Keep(2, 1, &warm);
  EXPECT_THAT(warm.TakeDropped(), ElementsAre(1));
  EXPECT_EQ(warm.bytes(), kPage);
  const std::byte* const bytes = copied->memory->data();
  EXPECT_EQ(std::count(bytes, bytes + copied->layout.total_bytes, std::byte{7}), copied->layout.total_bytes);
  copied.reset();
  EXPECT_TRUE(watch.expired());
}

TEST(WarmAdaptersTest, OneThatIsDroppedGivesItsMemoryBackAtOnceAndMayBeMadeAgain) {
  WarmAdapters warm(4 * kPage);
  Keep(1, 4, &warm);
  const std::weak_ptr<const PackedAdapter> watch = warm.Find(1);
  warm.Drop(1);
  EXPECT_TRUE(watch.expired());
  EXPECT_EQ(warm.bytes(), 0);
  EXPECT_THAT(warm.TakeDropped(), IsEmpty());  // who drops knows
  warm.Drop(1);
  Keep(1, 2, &warm);
  EXPECT_EQ(warm.bytes(), 2 * kPage);
}

TEST(WarmAdaptersTest, OneThatIsDroppedWhileItIsWrittenIsNotFound) {
  WarmAdapters warm(4 * kPage);
  const std::shared_ptr<PackedAdapter> making = warm.Make(1, LayoutOf(4));
  Keep(2, 1, &warm);
  std::fill_n(making->memory->data(), making->layout.total_bytes, std::byte{7});
  EXPECT_FALSE(warm.SetFilled(1));
  EXPECT_EQ(warm.Find(1), nullptr);
}

}  // namespace
}  // namespace lorad
