#include "scheduler/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/plan_input_builder.h"

namespace lorad {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::IsEmpty;

auto Row(SequenceId id, int64_t first_position, int64_t tokens, bool sample) {
  return AllOf(Field(&PlanRow::sequence, id), Field(&PlanRow::first_position, first_position),
               Field(&PlanRow::tokens, tokens), Field(&PlanRow::sample, sample));
}

TEST(PlannerTest, DecodesAndPromptsShareAStep) {
  const PlanInput input = PlanInputBuilder().Decoding(20).Waiting(10).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(1, 19, 1, true), Row(2, 0, 10, true)));
}

TEST(PlannerTest, RunningDecodesComeBeforeTheChunkOfARunningPrompt) {
  const PlanInput input = PlanInputBuilder().Running(16, 200).Decoding(5).Decoding(6).Budget(20).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(1, 16, 18, false), Row(2, 4, 1, true), Row(3, 5, 1, true)));
}

TEST(PlannerTest, ARunningPromptComesBeforeAWaitingOne) {
  const PlanInput input = PlanInputBuilder().Running(10, 100).Waiting(50).Budget(95).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(1, 10, 90, true), Row(2, 0, 5, false)));
}

TEST(PlannerTest, OnlyTheLastChunkOfAPromptSamples) {
  EXPECT_THAT(PlanStep(PlanInputBuilder().Running(80, 100).Budget(19).Build()).rows,
              ElementsAre(Row(1, 80, 19, false)));
  EXPECT_THAT(PlanStep(PlanInputBuilder().Running(80, 100).Budget(20).Build()).rows, ElementsAre(Row(1, 80, 20, true)));
}

TEST(PlannerTest, NoMoreSequencesRunThanThereAreSeats) {
  const PlanInput input = PlanInputBuilder().Decoding(5).Waiting(3).Waiting(3).Seats(2).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(1, 4, 1, true), Row(2, 0, 3, true)));
}

TEST(PlannerTest, AWaitingOneThatDoesNotFitIsNotPassedBy) {
  const PlanInput input = PlanInputBuilder().Decoding(5).Waiting(100).Waiting(3).Pages(5).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(1, 4, 1, true)));
}

TEST(PlannerTest, AWatermarkIsLeftForRunningOnesToGrowInto) {
  EXPECT_THAT(PlanStep(PlanInputBuilder().Decoding(5).Waiting(32).Pages(3, 2).Build()).rows,
              ElementsAre(Row(1, 4, 1, true)));
  EXPECT_EQ(PlanStep(PlanInputBuilder().Decoding(5).Waiting(32).Pages(4, 2).Build()).rows.size(), 2u);
}

TEST(PlannerTest, TheFirstOfAllNeedsNoWatermark) {
  EXPECT_THAT(PlanStep(PlanInputBuilder().Waiting(32).Pages(2, 2).Build()).rows, ElementsAre(Row(1, 0, 32, true)));
}

TEST(PlannerTest, WhatARunningPromptStillNeedsIsSpokenFor) {
  // 100 tokens need 7 blocks, one is held; the waiting one would need the others.
  const PlanInput input = PlanInputBuilder().Running(16, 100).RowLimit(8).Waiting(32).Pages(7).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(1, 16, 8, false)));
}

TEST(PlannerTest, BeginningOnAnIdleAdapterTakesItsPagesFromWhatCouldBeEvicted) {
  EXPECT_THAT(PlanStep(PlanInputBuilder().Waiting(16).OnIdleAdapter(7, 4).Pages(4).Build()).rows, IsEmpty());
  EXPECT_EQ(PlanStep(PlanInputBuilder().Waiting(16).OnIdleAdapter(7, 4).Pages(5).Build()).rows.size(), 1u);
}

TEST(PlannerTest, TwoOnTheSameIdleAdapterTakeItsPagesOnce) {
  const PlanInput input =
      PlanInputBuilder().Waiting(16).OnIdleAdapter(7, 4).Waiting(16).OnIdleAdapter(7, 4).Pages(6).Build();
  EXPECT_EQ(PlanStep(input).rows.size(), 2u);
}

TEST(PlannerTest, AColdAdapterDoesNotHoldBackTheRequestBehindIt) {
  const PlanInput input = PlanInputBuilder().Waiting(5, AdapterReadiness::kWaitsForRoom).Waiting(5).Build();
  const StepPlan plan = PlanStep(input);
  EXPECT_THAT(plan.rows, ElementsAre(Row(2, 0, 5, true)));
  EXPECT_THAT(plan.overtaken, ElementsAre(1));
}

TEST(PlannerTest, EachLaterRequestThatBeginsCountsAsOneOvertake) {
  const PlanInput input = PlanInputBuilder().Waiting(5, AdapterReadiness::kReading).Waiting(5).Waiting(5).Build();
  EXPECT_THAT(PlanStep(input).overtaken, ElementsAre(1, 1));
}

TEST(PlannerTest, NothingBeginsBehindOneThatWasOvertakenOftenEnoughAndWaitsForRoom) {
  const PlanInput input =
      PlanInputBuilder().Decoding(5).Waiting(5, AdapterReadiness::kWaitsForRoom, 2).Waiting(5).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(1, 4, 1, true)));
}

TEST(PlannerTest, WhileAnAdapterIsReadNobodyIsHeldBackForIt) {
  const PlanInput input = PlanInputBuilder().Waiting(5, AdapterReadiness::kReading, 1).Waiting(5).Seats(1).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(2, 0, 5, true)));
}

TEST(PlannerTest, OnceOvertakenOftenEnoughASeatIsKeptWhileItsAdapterIsRead) {
  // Those behind it begin beside it, not instead of it.
  const PlanInput input =
      PlanInputBuilder().Waiting(5, AdapterReadiness::kReading, 2).Waiting(6).Waiting(7).Seats(2).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(2, 0, 6, true)));
}

TEST(PlannerTest, MemoryIsKeptWithTheSeat) {
  const auto two = [] {  // 4 pages for the first, 3 of them for its adapter; 1 for the second
    return PlanInputBuilder().Waiting(16, AdapterReadiness::kReading, 2).OnIdleAdapter(7, 3).Waiting(16);
  };
  EXPECT_THAT(PlanStep(two().Pages(4).Build()).rows, IsEmpty());
  EXPECT_THAT(PlanStep(two().Pages(5).Build()).rows, ElementsAre(Row(2, 0, 16, true)));
}

TEST(PlannerTest, OneSeatIsKeptAtMost) {
  const PlanInput input = PlanInputBuilder()
                              .Waiting(5, AdapterReadiness::kReading, 2)
                              .Waiting(5, AdapterReadiness::kReading, 2)
                              .Waiting(6)
                              .Seats(2)
                              .Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(3, 0, 6, true)));
}

TEST(PlannerTest, NoSeatIsKeptForAReadThatHangsNorWhileReadsHang) {
  const auto hanging = PlanInputBuilder().Waiting(5, AdapterReadiness::kHanging, 99).Waiting(6).Seats(1).Build();
  EXPECT_THAT(PlanStep(hanging).rows, ElementsAre(Row(2, 0, 6, true)));
  PlanInput others_hang = PlanInputBuilder().Waiting(5, AdapterReadiness::kReading, 99).Waiting(6).Seats(1).Build();
  others_hang.may_keep_seat = false;
  EXPECT_THAT(PlanStep(others_hang).rows, ElementsAre(Row(2, 0, 6, true)));
}

TEST(PlannerTest, AnAccountAtItsRunningLimitIsPassedByAndHoldsNobodyBack) {
  const PlanInput input = PlanInputBuilder()
                              .Decoding(5)
                              .OfAccount(1)
                              .Waiting(6)
                              .OfAccount(1)
                              .Waiting(7, AdapterReadiness::kWaitsForRoom, 99)
                              .OfAccount(1)
                              .Waiting(8)
                              .OfAccount(2)
                              .Waiting(9)
                              .OfAccount(2)
                              .Waiting(10)
                              .RunningLimit(1)
                              .Build();
  const StepPlan plan = PlanStep(input);
  EXPECT_THAT(plan.rows, ElementsAre(Row(1, 4, 1, true), Row(4, 0, 8, true), Row(6, 0, 10, true)));
  EXPECT_THAT(plan.overtaken, IsEmpty());
}

TEST(PlannerTest, ARunningOneWithoutRoomTakesThatOfTheLastInOrder) {
  const PlanInput input = PlanInputBuilder().Decoding(17).Decoding(9).Decoding(9).Pages(0).Build();
  const StepPlan plan = PlanStep(input);
  EXPECT_THAT(plan.preempt, ElementsAre(3));
  EXPECT_THAT(plan.rows, ElementsAre(Row(1, 16, 1, true), Row(2, 8, 1, true)));
}

TEST(PlannerTest, TheLastInOrderGivesWayItselfWhenNobodyIsBehindIt) {
  const PlanInput input = PlanInputBuilder().Decoding(9).Decoding(17).Pages(0).Build();
  const StepPlan plan = PlanStep(input);
  EXPECT_THAT(plan.preempt, ElementsAre(2));
  EXPECT_THAT(plan.rows, ElementsAre(Row(1, 8, 1, true)));
}

TEST(PlannerTest, NothingBeginsInAStepThatPreempts) {
  const PlanInput input = PlanInputBuilder().Decoding(17).Decoding(40).Waiting(1).Pages(0).Build();
  const StepPlan plan = PlanStep(input);
  EXPECT_THAT(plan.preempt, ElementsAre(2));
  EXPECT_THAT(plan.rows, ElementsAre(Row(1, 16, 1, true)));
}

TEST(PlannerTest, TheFirstInOrderAlwaysGetsOn) {
  // A prompt half way, and others that hold all the memory.
  const PlanInput input = PlanInputBuilder().Running(16, 64).Running(16, 64).Running(16, 64).Pages(0).Build();
  const StepPlan plan = PlanStep(input);
  ASSERT_FALSE(plan.rows.empty());
  EXPECT_EQ(plan.rows[0].sequence, 1u);
  EXPECT_FALSE(plan.preempt.empty());
}

TEST(PlannerTest, AChunkIsNoLongerThanItsMemory) {
  const PlanInput input = PlanInputBuilder().Running(16, 200).Pages(2).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(1, 16, 32, false)));
}

TEST(PlannerTest, ARowLimitIsKept) {
  EXPECT_THAT(PlanStep(PlanInputBuilder().Waiting(200).RowLimit(64).Build()).rows, ElementsAre(Row(1, 0, 64, false)));
}

TEST(PlannerTest, AWaitingOneBeginsBehindItsCachedTokens) {
  EXPECT_THAT(PlanStep(PlanInputBuilder().Waiting(50).Cached(3, 3).Build()).rows, ElementsAre(Row(1, 48, 2, true)));
  EXPECT_THAT(PlanStep(PlanInputBuilder().Waiting(50).Cached(1, 1).Budget(20).Build()).rows,
              ElementsAre(Row(1, 16, 20, false)));
}

TEST(PlannerTest, CachedBlocksThatOthersHoldTakeNoMemoryAndIdleOnesDo) {
  EXPECT_THAT(PlanStep(PlanInputBuilder().Waiting(64).Cached(3, 0).Pages(1).Build()).rows,
              ElementsAre(Row(1, 48, 16, true)));
  EXPECT_THAT(PlanStep(PlanInputBuilder().Waiting(64).Cached(3, 2).Pages(2).Build()).rows, IsEmpty());
  EXPECT_THAT(PlanStep(PlanInputBuilder().Waiting(64).Cached(3, 2).Pages(3).Build()).rows,
              ElementsAre(Row(1, 48, 16, true)));
}

TEST(PlannerTest, PreemptingFreesOnlyWhatNobodyElseHolds) {
  // Blocks for the next token of the first: the last gives none, the one before it gives one.
  const StepPlan plan =
      PlanStep(PlanInputBuilder().Decoding(17).Decoding(20).Sharing(1).Decoding(20).Sharing(2).Pages(0).Build());
  EXPECT_THAT(plan.preempt, ElementsAre(2, 3));
  EXPECT_THAT(plan.rows, ElementsAre(Row(1, 16, 1, true)));
}

TEST(PlannerTest, WhoseNextBlockIsBeingComputedWaitsForItAndHoldsBackNobody) {
  const PlanInput input =
      PlanInputBuilder().Waiting(40).NextBlock(7).Waiting(40).NextBlock(7).Waiting(40).NextBlock(8).Build();
  const StepPlan plan = PlanStep(input);
  EXPECT_THAT(plan.rows, ElementsAre(Row(1, 0, 40, true), Row(3, 0, 40, true)));
  EXPECT_THAT(plan.overtaken, IsEmpty());
}

TEST(PlannerTest, APromptThatRunsIsWaitedForToo) {
  const PlanInput input = PlanInputBuilder().Running(16, 100).NextBlock(7).Waiting(40).NextBlock(7).Build();
  EXPECT_THAT(PlanStep(input).rows, ElementsAre(Row(1, 16, 84, true)));
}

TEST(PlannerTest, WithoutACommonBlockNobodyWaitsForAnother) {
  EXPECT_EQ(PlanStep(PlanInputBuilder().Waiting(40).Waiting(40).Build()).rows.size(), 2u);
}

TEST(PlannerTest, APlanDependsOnItsInputAlone) {
  const PlanInput input = PlanInputBuilder().Decoding(17).Running(3, 90).Waiting(7).Budget(30).Build();
  const StepPlan a = PlanStep(input);
  const StepPlan b = PlanStep(input);
  ASSERT_EQ(a.rows.size(), b.rows.size());
  for (size_t i = 0; i < a.rows.size(); ++i) EXPECT_EQ(a.rows[i].tokens, b.rows[i].tokens);
}

}  // namespace
}  // namespace lorad
