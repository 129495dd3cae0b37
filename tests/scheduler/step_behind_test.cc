// Steps that are planned and launched while the one before runs: everybody gets what he gets without, and what such a
// step still uses is nobody else's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/fake_world.h"

namespace lorad {
namespace {

std::vector<int32_t> Alone(const Request& request, uint64_t content = 0) {
  return FakeGenerate(request.prompt_ids, content, request.sampling);
}

class StepBehindTest : public testing::Test {
 protected:
  FakeWorld& World(FakeWorldOptions options = {}) {
    if (options.config.steps_a_turn == EngineConfig().steps_a_turn) options.config.steps_a_turn = 10'000;
    world_ = std::make_unique<FakeWorld>(options);
    world_->executor.takes_step_behind = true;
    return *world_;
  }
  int64_t StepsBehind() const {
    return std::count_if(world_->observer.steps.begin(), world_->observer.steps.end(),
                         [](const StepStats& step) { return step.behind; });
  }
  int64_t Steps() const { return std::ssize(world_->observer.steps); }

 private:
  std::unique_ptr<FakeWorld> world_;
};

TEST_F(StepBehindTest, AllStepsOfALoneRequestButTheFirstAreLaunchedBehindAnother) {
  FakeWorld& world = World();
  Request request = world.MakeRequest("", 40, 20);
  const std::vector<int32_t> expected = Alone(request);
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  EXPECT_EQ(sink->answer().tokens, expected);
  EXPECT_EQ(Steps(), 20);  // none in vain: that it ends by its length is known before
  EXPECT_EQ(StepsBehind(), 19);
}

TEST_F(StepBehindTest, WithOneStepATurnNoneIs) {
  FakeWorld& world = World({.config = {.steps_a_turn = 1}});
  const auto sink = world.Generate("", 40, 20);
  world.Settle();
  EXPECT_EQ(sink->answer().tokens.size(), 20u);
  EXPECT_EQ(StepsBehind(), 0);
}

TEST_F(StepBehindTest, AStopTokenIsSeenAStepLaterAndItsRowIsInVain) {
  FakeWorld& world = World();
  Request request = world.MakeRequest("", 10, 50);
  request.sampling.stop_token_ids = {Alone(request)[7]};
  const std::vector<int32_t> expected = Alone(request);
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  EXPECT_EQ(sink->answer().tokens, expected);
  EXPECT_EQ(sink->answer().finishes, 1);
  EXPECT_FALSE(sink->answer().told_after_finish);
  EXPECT_EQ(sink->answer().finish.reason, FinishReason::kStop);
  EXPECT_EQ(sink->answer().finish.usage.completion_tokens, std::ssize(expected));
  EXPECT_EQ(Steps(), std::ssize(expected) + 1);
  EXPECT_EQ(world.unused_pages(), world.pages->total_pages());
}

// A step behind writes to the pages of a sequence that has ended: until it is over nobody else gets them.
TEST_F(StepBehindTest, OthersGoOnWhileOneEndsAtAnyTime) {
  FakeWorld& world = World({.total_pages = 14});
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < 24; ++i) {
    Request request = world.MakeRequest("", 3 + i * 7 % 40, 30 + i % 5);
    if (i % 2 == 0) request.sampling.stop_token_ids = {Alone(request)[i % 13]};
    expected.push_back(Alone(request));
    sinks.push_back(FakeWorld::SinkOf(request));
    ASSERT_TRUE(world.Submit(std::move(request)).ok());
  }
  world.Settle();
  for (size_t i = 0; i < sinks.size(); ++i) EXPECT_EQ(sinks[i]->answer().tokens, expected[i]) << i;
  EXPECT_GT(StepsBehind(), Steps() / 3);
  EXPECT_EQ(world.unused_pages(), world.pages->total_pages());
}

TEST_F(StepBehindTest, APromptInChunksGoesOnBehindItself) {
  FakeWorld& world = World({.config = {.max_batch_tokens = 16}});
  Request request = world.MakeRequest("", 100, 3);
  const std::vector<int32_t> expected = Alone(request);
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  EXPECT_EQ(sink->answer().tokens, expected);
  EXPECT_EQ(StepsBehind(), Steps() - 1);
}

TEST_F(StepBehindTest, PenaltiesWaitForTheToken) {
  for (const auto set : {+[](SamplingOptions* options) { options->repetition_penalty = 1.1f; },
                         +[](SamplingOptions* options) { options->presence_penalty = 0.5f; },
                         +[](SamplingOptions* options) { options->frequency_penalty = 0.5f; }}) {
    FakeWorld& world = World();
    Request request = world.MakeRequest("", 10, 20);
    set(&request.sampling);
    const auto sink = FakeWorld::SinkOf(request);
    ASSERT_TRUE(world.Submit(std::move(request)).ok());
    world.Settle();
    EXPECT_EQ(sink->answer().tokens.size(), 20u);
    EXPECT_EQ(StepsBehind(), 0);
  }
}

TEST_F(StepBehindTest, MinTokensBansStopTokensOfTokensToCome) {
  FakeWorld& world = World();
  Request request = world.MakeRequest("", 10, 40);
  const std::vector<int32_t> free_run = Alone(request);
  request.sampling.stop_token_ids = {free_run[4], free_run[11]};
  request.sampling.min_tokens = 9;
  const std::vector<int32_t> expected = Alone(request);
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  EXPECT_EQ(sink->answer().tokens, expected);
  EXPECT_GT(StepsBehind(), 5);
}

// Its keys are computed anew there, from a token that must be known.
TEST_F(StepBehindTest, NoStepIsBehindOneWhereTheRopeSwitches) {
  const RopeSwitch rope = {.every_tokens = 16, .last_variant = 3};
  FakeWorld& world = World({.config = {.rope_switch = rope}});
  Request request = world.MakeRequest("", 10, 50);
  const std::vector<int32_t> expected = FakeGenerate(request.prompt_ids, 0, request.sampling, rope);
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  EXPECT_EQ(sink->answer().tokens, expected);
  EXPECT_GT(StepsBehind(), 0);
}

TEST_F(StepBehindTest, ACancelThatComesWhileAStepRunsIsHeardAfterTheOneBehindIt) {
  FakeWorld& world = World();
  Request request = world.MakeRequest("", 10, 1000);
  const RequestId id = request.id;
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  int steps = 0;
  world.executor.on_step = [&](absl::Span<const ExecRow>, StepResult*) {
    if (++steps == 3) world.inbox.Put(CancelCommand{.request = id, .index = -1, .reason = "gone"});
  };
  world.Settle();
  EXPECT_EQ(sink->answer().finish.reason, FinishReason::kAbort);
  EXPECT_EQ(sink->answer().tokens.size(), 4u);
}

TEST_F(StepBehindTest, ARequestThatCanBeginDoesNotWaitBehindStepsOfOthers) {
  FakeWorld& world = World();
  const auto first = world.Generate("", 10, 200);
  int steps = 0;
  std::shared_ptr<RecordingSink> second;
  world.executor.on_step = [&](absl::Span<const ExecRow> rows, StepResult*) {
    if (++steps == 3) second = world.Generate("", 10, 5);
    if (steps == 6) {
      EXPECT_EQ(rows.size(), 2u);
    }
  };
  world.Settle();
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->answer().tokens.size(), 5u);
  EXPECT_EQ(first->answer().tokens.size(), 200u);
}

// The seat of one that ends by its length is known to be free.
TEST_F(StepBehindTest, AWaitingRequestBeginsInTheStepAfterOneThatEndsByItsLength) {
  FakeWorld& world = World({.config = {.max_sequences = 1}});
  const auto first = world.Generate("", 10, 7);
  const auto second = world.Generate("", 10, 7);
  world.Settle();
  EXPECT_EQ(first->answer().tokens.size(), 7u);
  EXPECT_EQ(second->answer().tokens.size(), 7u);
  EXPECT_EQ(Steps(), 14);
}

TEST_F(StepBehindTest, AFailedStepEndsItsRowsAndTheOneBehindItIsInVain) {
  FakeWorld& world = World();
  const auto sink = world.Generate("", 10, 20);
  int steps = 0;
  world.executor.on_step = [&](absl::Span<const ExecRow>, StepResult*) {
    if (++steps == 3) world.executor.step_error = absl::InternalError("device fell over");
  };
  world.Settle();
  EXPECT_EQ(sink->answer().finish.reason, FinishReason::kAbort);
  EXPECT_EQ(sink->answer().finish.abort_detail, "device fell over");
  EXPECT_EQ(sink->answer().tokens.size(), 2u);
  EXPECT_EQ(steps, 4);
  EXPECT_EQ(world.unused_pages(), world.pages->total_pages());
}

TEST_F(StepBehindTest, AFailedRowEndsThatSequenceAlone) {
  FakeWorld& world = World();
  const auto first = world.Generate("", 10, 20);
  const auto second = world.Generate("", 10, 20);
  int steps = 0;
  world.executor.on_step = [&](absl::Span<const ExecRow>, StepResult* result) {
    if (++steps != 3) return;
    result->rows[0].status = absl::InternalError("logits are not finite");
    result->rows[0].sampled = false;
  };
  world.Settle();
  EXPECT_EQ(first->answer().finish.abort_detail, "logits are not finite");
  EXPECT_EQ(second->answer().tokens.size(), 20u);
}

// An unload is answered when the last that runs on the adapter has ended, and its pages are given back then.
TEST_F(StepBehindTest, AnUnloadIsAnsweredWhenTheLastRequestHasEnded) {
  FakeWorld& world = World();
  world.Folder("a", 7);
  ASSERT_TRUE(world.Load("a").ok());
  const auto other = world.Generate("", 10, 300);
  Request request = world.MakeRequest("a", 10, 50);
  request.sampling.stop_token_ids = {Alone(request, 7)[9]};
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Turn();
  const auto answer = world.Unload("a");
  while (!sink->finished()) world.Turn();
  world.Turn();
  ASSERT_TRUE(answer->has_value());
  EXPECT_TRUE((*answer)->ok());
  EXPECT_EQ(world.pages->used_pages(PageOwner::kAdapter), 0);
  EXPECT_FALSE(other->finished());
  world.Settle();
  EXPECT_EQ(other->answer().tokens.size(), 300u);
}

// What no command tells, such as a read that hangs, is looked at in turns.
TEST_F(StepBehindTest, ATurnEndsAfterSomeStepsThoughNothingComesBetween) {
  FakeWorld& world = World({.config = {.steps_a_turn = 5}});
  const auto sink = world.Generate("", 10, 1000);
  world.Turn();
  EXPECT_EQ(Steps(), 5);
  world.Turn();
  EXPECT_EQ(Steps(), 10);
  world.Settle();
  EXPECT_EQ(sink->answer().tokens.size(), 1000u);
}

TEST_F(StepBehindTest, AFullPoolGivesWhatIdlesToStepsBehind) {
  FakeWorld& world = World({.total_pages = 12});
  for (int i = 0; i < 3; ++i) {  // cached blocks fill it
    (void)world.Generate("", 50, 2);
    world.Settle();
  }
  ASSERT_LT(world.pages->free_pages(), 4);
  const int64_t before = StepsBehind();
  const auto sink = world.Generate("", 10, 100);
  world.Settle();
  EXPECT_EQ(sink->answer().tokens.size(), 100u);
  EXPECT_GT(StepsBehind(), before + 90);
}

}  // namespace
}  // namespace lorad
