#include "model/expert_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lorad {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

TEST(GroupByExpertTest, SortsPairsByExpertThenRow) {
  // Rows 0, 1, 2 choose (2, 0), (1, 2), (0, 3).
  const ExpertRows grouped = GroupByExpert({2, 0, 1, 2, 0, 3}, {.5f, .25f, .75f, .125f, 1.0f, 2.0f}, 3, 4);
  EXPECT_THAT(grouped.starts, ElementsAre(0, 2, 3, 5, 6));
  EXPECT_THAT(grouped.rows, ElementsAre(0, 2, 1, 0, 1, 2));
  EXPECT_THAT(grouped.pairs, ElementsAre(0, 3, 2, 4, 1, 5));
  EXPECT_THAT(grouped.weights, ElementsAre(.25f, .5f, .75f, .125f, 1.0f, 2.0f));
}

TEST(GroupByExpertTest, ARowsPairsComeInTheSameOrderInAnyCompany) {
  const ExpertRows alone = GroupByExpert({3, 1, 2}, {1.0f, 2.0f, 3.0f}, 1, 4);
  const ExpertRows among = GroupByExpert({0, 1, 2, 3, 1, 2, 1, 2, 3}, {9, 9, 9, 1.0f, 2.0f, 3.0f, 9, 9, 9}, 3, 4);
  EXPECT_THAT(alone.weights, ElementsAre(2.0f, 3.0f, 1.0f));
  EXPECT_THAT(std::vector<float>(among.weights.begin() + 3, among.weights.begin() + 6),
              ElementsAreArray(alone.weights));
  for (int i = 3; i < 6; ++i) EXPECT_EQ(among.rows[among.pairs[i]], 1);
}

TEST(GroupByExpertTest, ARowMayChooseFewerOrNone) {
  const ExpertRows grouped = GroupByExpert({-1, 1, -1, -1, 0, -1}, {7, 1.0f, 7, 7, 2.0f, 7}, 3, 2);
  EXPECT_THAT(grouped.starts, ElementsAre(0, 1, 2));
  EXPECT_THAT(grouped.rows, ElementsAre(2, 0));
  EXPECT_THAT(grouped.pairs, ElementsAre(1, -1, -1, -1, 0, -1));
  EXPECT_THAT(grouped.weights, ElementsAre(1.0f, 0.0f, 0.0f, 0.0f, 2.0f, 0.0f));
}

TEST(GroupByExpertTest, NoRows) {
  const ExpertRows grouped = GroupByExpert({}, {}, 0, 3);
  EXPECT_THAT(grouped.starts, ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(grouped.num_pairs(), 0);
}

TEST(SegmentsOfPairsTest, GivesEachPairItsRowsTermsAtItsExpert) {
  // Rows 0-1 use slot 5, row 2 the base, row 3 slots 5 and 6.
  const RowSegments rows = {
      .starts = {0, 2, 3, 4}, .term_starts = {0, 1, 1, 3}, .terms = {{5, 1.0f}, {5, 0.5f}, {6, 2.0f}}};
  // Expert 0: rows 0, 1, 3. Expert 1: none. Expert 2: rows 2, 3.
  const ExpertRows pairs = GroupByExpert({0, -1, 0, -1, 2, -1, 0, 2}, std::vector<float>(8, 1.0f), 4, 3);
  const RowSegments segments = SegmentsOfPairs(rows, pairs);
  EXPECT_THAT(segments.input_rows, ElementsAre(0, 1, 3, 2, 3));
  EXPECT_THAT(segments.starts, ElementsAre(0, 2, 3, 4, 5));
  EXPECT_THAT(segments.term_starts, ElementsAre(0, 1, 3, 3, 5));
  ASSERT_EQ(segments.terms.size(), 5u);
  EXPECT_EQ(segments.terms[0].slot, 5);
  EXPECT_EQ(segments.terms[0].expert, 0);
  EXPECT_EQ(segments.terms[2].slot, 6);
  EXPECT_EQ(segments.terms[2].expert, 0);
  EXPECT_EQ(segments.terms[3].slot, 5);
  EXPECT_EQ(segments.terms[3].expert, 2);
  EXPECT_FLOAT_EQ(segments.terms[4].scale, 2.0f);
  EXPECT_EQ(segments.rows(), pairs.num_pairs());
}

TEST(SegmentsOfPairsTest, RowsOfTheBaseAreOneSegment) {
  const RowSegments rows = {.starts = {0, 1, 2}, .term_starts = {0, 0, 0}, .terms = {}};
  const RowSegments segments = SegmentsOfPairs(rows, GroupByExpert({1, 0}, {1.0f, 1.0f}, 2, 2));
  EXPECT_THAT(segments.starts, ElementsAre(0, 2));
  EXPECT_THAT(segments.term_starts, ElementsAre(0, 0));
  EXPECT_THAT(segments.input_rows, ElementsAre(1, 0));
}

}  // namespace
}  // namespace lorad
