// Plans of captured steps: what their launches are prepared for, and how long their tables are.
#include "adapters/graph_seam.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "adapters/slot_table.h"
#include "model/causal_lm.h"
#include "tests/component/golden_base.h"

namespace lorad {
namespace {

constexpr int64_t kPadded = 4;

class GraphSeamTest : public testing::Test {
 protected:
  GraphSeamTest() : shape_(GoldenBase("llama3").base_shape()), slots_(shape_) {
    slots_.Resize(3);
    for (int layer = 0; layer < shape_.num_layers; ++layer) {
      slots_.Set(Site::kQProj, layer, 0, {.rank = 8});
      slots_.Set(Site::kQProj, layer, 1, {.rank = 16});
      slots_.Set(Site::kDownProj, layer, 1, {.rank = 3});
      slots_.Set(Site::kQProj, layer, 2, {.rank = 30});
    }
  }
  // Of two rows, whose terms are these slots.
  GraphStep Plan(const std::vector<int32_t>& slots) {
    RowSegments rows;
    rows.starts = {0, 2};
    rows.term_starts = {0, static_cast<int32_t>(slots.size())};
    for (const int32_t slot : slots) rows.terms.push_back({slot, 1.0f});
    return seam_.Plan(rows, kPadded);
  }

  const BaseShape shape_;
  SlotTable slots_;
  SlotGraphSeam seam_{slots_, shape_, at::Device(at::kCUDA, 0)};
};

TEST_F(GraphSeamTest, TablesAreAsTheFeaturesOfTheClassHaveThem) {
  const GraphStep first = Plan({0}), raised = Plan({1}), terms = Plan({0, 1}), again = Plan({0});
  EXPECT_EQ(first.eager, "");
  EXPECT_NE(first.features, raised.features);
  EXPECT_EQ(again.features, terms.features);
  EXPECT_EQ(again.tables.size(), terms.tables.size());
  EXPECT_GT(again.tables.size(), first.tables.size());
  // What this step does not need is nobody's: one tile of two rows, one term.
  const auto* const tiles = reinterpret_cast<const RowTile*>(again.tables.data());
  EXPECT_EQ(tiles[0].rows, 2);
  EXPECT_TRUE(std::all_of(tiles + 1, tiles + kPadded, [](const RowTile& tile) { return tile.rows == 0; }));
  EXPECT_EQ(tiles[0].end_term - tiles[0].first_term, 1);
}

TEST_F(GraphSeamTest, TheBasesOwnStepsHaveNoTablesWhateverWasBefore) {
  const GraphStep first = Plan({});
  Plan({0, 1});
  const GraphStep again = Plan({});
  EXPECT_EQ(again.features, first.features);
  EXPECT_TRUE(again.tables.empty());
}

// Ranks of a row are those of its terms together, each as blocks of eight have them: 8, 32 and 40, which is 64.
TEST_F(GraphSeamTest, ManyRanksAreAClassOfTheirOwn) {
  const GraphStep few = Plan({0});
  const GraphStep sum = Plan({0, 2});
  EXPECT_EQ(Plan({0}).features, sum.features);
  const GraphStep many = Plan({0, 1, 2, 2});  // 88
  EXPECT_NE(many.features, sum.features);
  EXPECT_EQ(Plan({0}).features, sum.features);
  EXPECT_NE(few.features, sum.features);
}

}  // namespace
}  // namespace lorad
