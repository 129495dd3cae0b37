#include "adapters/graph_features.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <set>
#include <utility>
#include <vector>

namespace lorad {
namespace {

constexpr uint64_t kAttention = BitOf(Site::kQProj) | BitOf(Site::kVProj);
constexpr uint64_t kDown = BitOf(Site::kDownProj);

GraphFeatures Of(uint64_t adds, int64_t ranks) { return {.adds = adds, .most_terms = 1, .most_ranks = ranks}; }

TEST(GraphFeaturesTest, EachIsPartOfTheNumbers) {
  const std::vector<std::function<void(GraphFeatures&)>> changes = {
      [](GraphFeatures& f) { f.adds = kDown; },
      [](GraphFeatures& f) { f.routes = kDown; },
      [](GraphFeatures& f) { f.most_terms = 2; },
      [](GraphFeatures& f) { f.most_ranks = 8; },
      [](GraphFeatures& f) { f.most_experts = 4; },
      [](GraphFeatures& f) { f.replaces_embedding = true; },
      [](GraphFeatures& f) { f.replaced_head_rows = 1; },
      [](GraphFeatures& f) { f.head_columns = 9; },
      [](GraphFeatures& f) { f.routed_rows = 8; },
      [](GraphFeatures& f) { f.most_choices = 2; },
      [](GraphFeatures& f) { f.activation = Activation::kSilu; },
      [](GraphFeatures& f) { f.activation = Activation::kRelu; }};
  std::set<std::vector<int64_t>> numbers = {NumbersOf({})};
  for (const auto& change : changes) {
    GraphFeatures features;
    change(features);
    EXPECT_TRUE(numbers.insert(NumbersOf(features)).second);
  }
}

TEST(GraphFeaturesTest, RoutedRowsAreEightOr64OrAll) {
  for (const auto& [rows, padded, bucket] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {1, 4, 4}, {8, 64, 8}, {9, 16, 16}, {9, 96, 64}, {64, 512, 64}, {65, 512, 512}}) {
    EXPECT_EQ(RoutedRowsBucket(rows, padded), bucket) << rows << " of " << padded;
  }
}

// Whatever the order and the unions, a bound is passed on its way up alone.
TEST(FeatureFloorsTest, MixedTrafficComesToOneSetOfFeatures) {
  FeatureFloors floors;
  const std::vector<GraphFeatures> steps = {
      Of(kAttention, 8), Of(kDown, 16), Of(kAttention | kDown, 32), {.adds = kDown, .most_terms = 3, .most_ranks = 64}};
  std::set<std::vector<int64_t>> seen;
  for (int i = 0; i < 100; ++i) seen.insert(NumbersOf(floors.Raise(steps[static_cast<size_t>(i * i) % steps.size()])));
  for (const GraphFeatures& step : steps) seen.insert(NumbersOf(floors.Raise(step)));
  EXPECT_LE(seen.size(), steps.size());
  const GraphFeatures all = {.adds = kAttention | kDown, .most_terms = 3, .most_ranks = 64};
  for (const GraphFeatures& step : steps) EXPECT_EQ(floors.Raise(step), all);
}

TEST(FeatureFloorsTest, EachBoundIsTheLargest) {
  FeatureFloors floors;
  const GraphFeatures large = {.adds = kAttention,
                               .routes = kAttention,
                               .most_terms = 2,
                               .most_ranks = 64,
                               .most_experts = 8,
                               .replaces_embedding = true,
                               .replaced_head_rows = 16,
                               .head_columns = 102,
                               .routed_rows = 64,
                               .most_choices = 4,
                               .activation = Activation::kRelu};
  const GraphFeatures small = {.adds = kDown,
                               .routes = kDown,
                               .most_terms = 1,
                               .most_ranks = 8,
                               .most_experts = 2,
                               .replaced_head_rows = 1,
                               .routed_rows = 8,
                               .most_choices = 1,
                               .activation = Activation::kRelu};
  GraphFeatures both = large;
  both.adds = both.routes = kAttention | kDown;
  EXPECT_EQ(floors.Raise(large), large);
  both.routed_rows = 8;  // the step's own
  EXPECT_EQ(floors.Raise(small), both);
  both.routed_rows = 64;
  EXPECT_EQ(floors.Raise(large), both);
}

TEST(FeatureFloorsTest, TheBasesOwnStepsHaveNone) {
  FeatureFloors floors;
  floors.Raise(Of(kAttention, 64));
  EXPECT_EQ(floors.Raise({}), GraphFeatures());
}

// Of each two of these steps neither is raised by the other.
TEST(FeatureFloorsTest, AStepIsNotRaisedByThoseOfOtherClasses) {
  std::vector<GraphFeatures> classes(8, Of(kAttention, 8));
  classes[1].routed_rows = 8;
  classes[2].routed_rows = 8;
  classes[2].activation = Activation::kRelu;
  classes[3].routes = kAttention;
  classes[4].replaced_head_rows = 16;
  classes[5].adds |= BitOf(Site::kExpertDown);
  classes[6].most_ranks = 128;
  classes[7] = {};
  for (const auto& order : {std::pair(0, 1), std::pair(7, -1)}) {
    FeatureFloors floors;
    for (int i = order.first; i >= 0 && i < 8; i += order.second) floors.Raise(classes[static_cast<size_t>(i)]);
    for (const GraphFeatures& features : classes) EXPECT_EQ(floors.Raise(features), features);
  }
}

TEST(FeatureFloorsTest, WhatNobodyHasNeededLatelyComesDown) {
  constexpr int kLately = 10;
  FeatureFloors floors(kLately);
  const GraphFeatures small = Of(kAttention, 8), large = Of(kAttention | kDown, 64);
  floors.Raise(large);
  // The rest of these steps, and as many again.
  for (int i = 1; i < 2 * kLately; ++i) ASSERT_EQ(floors.Raise(small), large) << i;
  EXPECT_EQ(floors.Raise(small), small);
  EXPECT_EQ(floors.Raise(large), large);
}

// Others' steps do not count, and one that comes again in time keeps what it raised.
TEST(FeatureFloorsTest, WhatComesAgainInTimeStays) {
  constexpr int kLately = 10;
  FeatureFloors floors(kLately);
  const GraphFeatures small = Of(kAttention, 8), large = Of(kAttention | kDown, 64);
  GraphFeatures routed = small;
  routed.routes = kAttention;
  for (int round = 0; round < 20; ++round) {
    ASSERT_EQ(floors.Raise(large), large) << round;
    for (int i = 1; i < kLately; ++i) {
      ASSERT_EQ(floors.Raise(small), large) << round;
      for (int other = 0; other < 5; ++other) ASSERT_EQ(floors.Raise(routed), routed);
    }
  }
}

}  // namespace
}  // namespace lorad
