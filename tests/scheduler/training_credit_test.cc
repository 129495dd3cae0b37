#include "scheduler/training_credit.h"

#include <gtest/gtest.h>

namespace lorad {
namespace {

TEST(TrainingCreditTest, TakesItsShareAndNoMore) {
  TrainingCredit credit(0.2);
  int64_t served_us = 0, trained_us = 0;
  for (int step = 0; step < 1000; ++step) {
    if (credit.MayPrecede(/*step_us=*/16'000, /*piece_us=*/3'000)) {
      credit.Trained(3'000);
      trained_us += 3'000;
    }
    credit.Served(16'000);
    served_us += 16'000;
  }
  EXPECT_LE(trained_us, served_us / 5);
  EXPECT_GE(trained_us, served_us / 6);
}

TEST(TrainingCreditTest, ALongStepIsLetByWhileShortOnesComeToo) {
  TrainingCredit credit(0.2);
  int pieces = 0;
  for (int step = 0; step < 1000; ++step) {
    const int64_t step_us = step % 20 == 0 ? 27'000 : 16'000;
    if (credit.MayPrecede(step_us, /*piece_us=*/8'000)) {
      EXPECT_LT(step_us, 20'000) << step;
      credit.Trained(8'000);
      ++pieces;
    }
    credit.Served(step_us);
  }
  EXPECT_GE(pieces, 350);
}

TEST(TrainingCreditTest, PiecesThatFitNoStepRunOnceTwiceTheirTimeHasGathered) {
  TrainingCredit credit(0.2);
  int steps = 0;
  for (; !credit.MayPrecede(10'000, 10'000) && steps < 100; ++steps) credit.Served(10'000);
  EXPECT_EQ(steps, 10);
}

TEST(TrainingCreditTest, WithoutAShareNothingRuns) {
  TrainingCredit credit(0.0);
  for (int step = 0; step < 100; ++step) credit.Served(10'000);
  EXPECT_FALSE(credit.MayPrecede(10'000, 0));
  EXPECT_FALSE(credit.MayGoOn(0, 1));
}

TEST(TrainingCreditTest, ATurnThatAStepWaitsForEndsWithinTheStepsShare) {
  TrainingCredit credit(0.2);
  for (int step = 0; step < 1000; ++step) credit.Served(20'000);  // 200 ms have gathered
  EXPECT_TRUE(credit.MayGoOn(/*turn_us=*/2'000, /*piece_us=*/2'000));
  EXPECT_FALSE(credit.MayGoOn(/*turn_us=*/3'000, /*piece_us=*/2'000));
}

}  // namespace
}  // namespace lorad
