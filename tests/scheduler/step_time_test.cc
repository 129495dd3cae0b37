#include "scheduler/step_time.h"

#include <gtest/gtest.h>

namespace lorad {
namespace {

TEST(StepTimeTest, FindsTheTokensThatFitTheTarget) {
  StepTimeModel model;
  for (int i = 0; i < 50; ++i) model.Observe(10 + i % 7 * 20, 20'000 + 500 * (10 + i % 7 * 20));
  EXPECT_NEAR(static_cast<double>(model.TokensFor(150'000, 1, 10'000)), 260.0, 2.0);
}

TEST(StepTimeTest, FollowsAMachineThatBecomesSlower) {
  StepTimeModel model;
  for (int i = 0; i < 50; ++i) model.Observe(10 + i % 7 * 20, 100 * (10 + i % 7 * 20));
  for (int i = 0; i < 100; ++i) model.Observe(10 + i % 7 * 20, 1'000 * (10 + i % 7 * 20));
  EXPECT_NEAR(static_cast<double>(model.TokensFor(100'000, 1, 10'000)), 100.0, 5.0);
}

TEST(StepTimeTest, StaysWithinItsBounds) {
  StepTimeModel model;
  EXPECT_LE(model.TokensFor(150'000, 17, 64), 64);
  model.Observe(1, 1'000'000);
  EXPECT_EQ(model.TokensFor(150'000, 17, 512), 17);
  StepTimeModel fast;
  fast.Observe(100, 10);
  EXPECT_EQ(fast.TokensFor(150'000, 17, 512), 512);
}

TEST(StepTimeTest, DecodesAloneTellTooLittleAndItErrsToShortSteps) {
  StepTimeModel model;
  for (int i = 0; i < 30; ++i) model.Observe(4, 40'000);
  EXPECT_LE(model.TokensFor(150'000, 4, 512), 15);
}

TEST(StepTimeTest, PredictsFromStepsThatDifferAndFromNoOthers) {
  StepTimeModel model;
  EXPECT_EQ(model.PredictUs(100), std::nullopt);
  for (int i = 0; i < 30; ++i) model.Observe(4, 40'000);
  EXPECT_EQ(model.PredictUs(100), std::nullopt);
  for (int i = 0; i < 50; ++i) model.Observe(10 + i % 7 * 20, 20'000 + 500 * (10 + i % 7 * 20));
  EXPECT_NEAR(static_cast<double>(*model.PredictUs(100)), 70'000.0, 1'000.0);
}

TEST(StepTimeTest, TheLeastGivesWayToTheMost) {
  StepTimeModel model;
  model.Observe(1, 1'000'000);
  EXPECT_EQ(model.TokensFor(150'000, 100, 64), 64);
}

}  // namespace
}  // namespace lorad
