#include "server/memory_defaults.h"

#include <gtest/gtest.h>

namespace lorad {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

TEST(MemoryDefaultsTest, ThePoolIsHalfOfWhatIsFreeWithinItsLimits) {
  EXPECT_EQ(DefaultMemoryBytes(0), int64_t{64} << 20);
  EXPECT_EQ(DefaultMemoryBytes(8 * kGiB), 4 * kGiB);
  EXPECT_EQ(DefaultMemoryBytes(100 * kGiB), 16 * kGiB);
  EXPECT_GT(AvailableMemoryBytes(), 0);
}

TEST(MemoryDefaultsTest, OnADeviceTrainingLeavesThePoolAFifthLess) {
  EXPECT_EQ(DefaultDeviceMemoryBytes(50 * kGiB), 40 * kGiB);
}

TEST(MemoryDefaultsTest, TheHostKeepsAdaptersBesideADevicesPoolAlone) {
  EXPECT_EQ(DefaultHostAdapterBytes(/*pool_on_host=*/true, 1024 * kGiB), 0);
  EXPECT_EQ(DefaultHostAdapterBytes(/*pool_on_host=*/false, 1024 * kGiB), 4 * kGiB);
  EXPECT_EQ(DefaultHostAdapterBytes(/*pool_on_host=*/false, 6 * kGiB), 3 * kGiB);
}

TEST(MemoryDefaultsTest, GraphsHaveASixteenthAndAGiBAtMost) {
  EXPECT_EQ(DeviceGraphBytes(8 * kGiB), kGiB / 2);
  EXPECT_EQ(DeviceGraphBytes(64 * kGiB), kGiB);
}

}  // namespace
}  // namespace lorad
