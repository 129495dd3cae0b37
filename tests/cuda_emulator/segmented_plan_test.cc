#include "adapters/ops/cuda/segmented_plan.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/ops/cuda/long_segment_kernels.h"

namespace lorad::cuda {
namespace {

using testing::ElementsAre;

// Segments of so many rows, each of slot 0; the plan of one part of 200 columns.
class SegmentedPlanTest : public testing::Test {
 protected:
  SegmentedPlan Plan(const std::vector<int32_t>& rows, int32_t h_slices) {
    RowSegments segments;
    for (const int32_t each : rows) {
      segments.starts.push_back(segments.starts.back() + each);
      segments.terms.push_back({0, 1.0f});
      segments.term_starts.push_back(static_cast<int32_t>(segments.terms.size()));
    }
    const SegmentedPart part = {&slot_, 0, 200};
    return PlanSegments({&part, 1}, 1, segments, /*with_bias=*/true, h_slices);
  }
  static std::vector<int32_t> RowsOf(const SegmentedPlan& plan) {
    std::vector<int32_t> rows;
    for (const RowTile& tile : plan.tiles) rows.push_back(tile.rows);
    return rows;
  }

  SlotWeights slot_ = {.rank = 70};
};

TEST_F(SegmentedPlanTest, LongTilesOfMoreThanSixteenRowsLieBehindTheShortOnes) {
  const SegmentedPlan plan = Plan({17, 16, 130, 1}, 1);
  EXPECT_THAT(RowsOf(plan), ElementsAre(4, 4, 4, 4, 1, 17, 64, 64, 2));
  EXPECT_EQ(plan.num_long_tiles, 4);
  EXPECT_EQ(plan.sizes.rank_blocks, 9);
  EXPECT_EQ(plan.sizes.long_rank_blocks, 2);
  EXPECT_EQ(plan.sizes.column_blocks, 1);
  EXPECT_EQ(plan.sizes.long_column_blocks, 2);
}

TEST_F(SegmentedPlanTest, ASegmentWithoutRowsAsksForNothing) {
  const SegmentedPlan beside = Plan({0, 40}, 1);
  EXPECT_EQ(beside.sizes.rank_blocks, 0);
  EXPECT_THAT(RowsOf(beside), ElementsAre(40));
  const float router[1] = {};
  slot_.router = router;
  slot_.experts = 2;
  const SegmentedPlan none = Plan({0}, 1);
  EXPECT_EQ(none.sizes.experts, 0);
  EXPECT_EQ(none.sizes.rank_blocks, 0);
}

TEST_F(SegmentedPlanTest, ALongTileHasRoomForEachSliceOfH) {
  const SegmentedPlan plan = Plan({20, 16, 65}, 3);
  int64_t next = 0;  // segments in order, whatever their tiles' order
  for (const int64_t tile : {4, 0, 1, 2, 3, 5, 6}) {
    const RowTile& t = plan.tiles[static_cast<size_t>(tile)];
    EXPECT_EQ(t.h_offset, next) << tile;
    next += t.rows * 70 * (tile >= 4 ? 3 : 1);
  }
  EXPECT_EQ(plan.h_floats, next);
}

TEST_F(SegmentedPlanTest, WithoutSlicesAndWhereASlotRoutesAllTilesAreShort) {
  EXPECT_EQ(Plan({40}, 0).num_long_tiles, 0);
  const float router[1] = {};
  slot_.router = router;
  slot_.experts = 2;
  const SegmentedPlan plan = Plan({40}, 1);
  EXPECT_THAT(RowsOf(plan), ElementsAre(4, 4, 4, 4, 4, 4, 4, 4, 4, 4));
  EXPECT_EQ(plan.num_long_tiles, 0);
  EXPECT_EQ(plan.sizes.experts, 2);
}

TEST(SlicesTest, GoByTheWidthAlone) {
  EXPECT_EQ(SlicesOf(1), 1);
  EXPECT_EQ(SlicesOf(1023), 1);
  EXPECT_EQ(SlicesOf(1024), 2);
  EXPECT_EQ(SlicesOf(4096), 4);
  EXPECT_EQ(SlicesOf(1 << 20), 4);
}

}  // namespace
}  // namespace lorad::cuda
