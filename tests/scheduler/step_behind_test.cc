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
  FakeWorld::UnloadAnswer answer;
  int steps = 0;
  world.executor.on_step = [&](absl::Span<const ExecRow>, StepResult*) {
    if (++steps == 3) answer = world.Unload("a");
  };
  while (!sink->finished()) world.Turn();
  ASSERT_NE(answer, nullptr);
  ASSERT_TRUE(answer->has_value());
  EXPECT_TRUE((*answer)->ok());
  EXPECT_EQ(world.pages->used_pages(PageOwner::kAdapter), 0);
  EXPECT_FALSE(other->finished());
  world.Settle();
  EXPECT_EQ(other->answer().tokens.size(), 300u);
}

TEST_F(StepBehindTest, AChainGoesOnPastAnEndForWhichNobodyWaits) {
  FakeWorld& world = World();
  world.Folder("a", 7);
  ASSERT_TRUE(world.Load("a").ok());
  Request by_length = world.MakeRequest("", 20, 5), by_stop = world.MakeRequest("a", 30, 40),
          last = world.MakeRequest("", 10, 60);
  by_stop.sampling.stop_token_ids = {Alone(by_stop, 7)[11]};
  std::vector<std::vector<int32_t>> expected = {Alone(by_length), Alone(by_stop, 7), Alone(last)};
  const auto stopped = static_cast<size_t>(std::ssize(expected[1]));
  ASSERT_GT(stopped, 6u);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<size_t> rows_of_steps;
  world.executor.on_step = [&](absl::Span<const ExecRow> rows, StepResult*) { rows_of_steps.push_back(rows.size()); };
  for (Request* request : {&by_length, &by_stop, &last}) {
    sinks.push_back(FakeWorld::SinkOf(*request));
    ASSERT_TRUE(world.Submit(std::move(*request)).ok());
  }
  world.Turn();
  EXPECT_EQ(Steps(), 60);
  EXPECT_EQ(StepsBehind(), 59);
  for (size_t i = 0; i < sinks.size(); ++i) {
    EXPECT_EQ(sinks[i]->answer().tokens, expected[i]) << i;
    EXPECT_EQ(sinks[i]->answer().finishes, 1) << i;
    EXPECT_FALSE(sinks[i]->answer().told_after_finish) << i;
  }
  // That it ends by its length is known before; by a token, when its next row is in flight.
  std::vector<size_t> expected_rows(60, 1);
  std::fill_n(expected_rows.begin(), stopped + 1, 2);
  std::fill_n(expected_rows.begin(), 5, 3);
  EXPECT_EQ(rows_of_steps, expected_rows);
  EXPECT_EQ(world.unused_pages(), world.pages->total_pages() - 1);  // the adapter's
}

// Room for an adapter is made in turns, whoever wants it.
TEST_F(StepBehindTest, AChainStopsAtAnEndForWhoseRoomSomebodyWaits) {
  for (const bool commanded : {false, true}) {
    FakeWorld& world = World({.total_pages = 24});
    world.Folder("b", 7, /*pages_wanted=*/12);
    const auto other = world.Generate("", 10, 120);
    Request ending = world.MakeRequest("", 200, 40);
    ending.sampling.stop_token_ids = {Alone(ending)[15]};
    const auto end = FakeWorld::SinkOf(ending);
    ASSERT_TRUE(world.Submit(std::move(ending)).ok());
    Request wanting = world.MakeRequest("b", 10, 3);
    const auto waiting = FakeWorld::SinkOf(wanting);
    const auto adapter_pages = [&] { return world.pages->used_pages(PageOwner::kAdapter); };
    int steps = 0;
    world.executor.on_step = [&](absl::Span<const ExecRow>, StepResult*) {
      if (!end->finished()) {
        EXPECT_EQ(adapter_pages(), 0);
      }
      if (++steps != 4) return;
      if (commanded) {
        (void)world.StartLoad("b", /*pinned=*/true);
      } else {
        ASSERT_TRUE(world.Submit(std::move(wanting), FakeWorld::PathOf("b")).ok());
      }
    };
    for (int i = 0; i < 1000 && adapter_pages() == 0; ++i) {
      world.AnswerLoader();
      world.Turn();
    }
    EXPECT_TRUE(end->finished());
    EXPECT_FALSE(other->finished());
    world.Settle();
    EXPECT_TRUE(world.pool.IsResident(1));
    EXPECT_EQ(waiting->finished(), !commanded);
    EXPECT_EQ(other->answer().tokens.size(), 120u);
  }
}

// Whatever has ended in the chain before, it ends behind the step after the one in which the command came.
TEST_F(StepBehindTest, ACommandThatComesBehindAnEndIsHeardAfterTheStepInFlight) {
  for (const bool as_stop : {false, true}) {
    FakeWorld& world = World();
    const auto first = world.Generate("", 10, 3);
    Request request = world.MakeRequest("", 10, 1000);
    const RequestId id = request.id;
    const auto sink = FakeWorld::SinkOf(request);
    ASSERT_TRUE(world.Submit(std::move(request)).ok());
    Request third = world.MakeRequest("", 10, 100);
    const std::vector<int32_t> expected = Alone(third);
    const auto other = FakeWorld::SinkOf(third);
    ASSERT_TRUE(world.Submit(std::move(third)).ok());
    int steps = 0;
    world.executor.on_step = [&](absl::Span<const ExecRow>, StepResult*) {
      if (++steps == 20) {
        EXPECT_TRUE(first->finished());
        world.inbox.Put(CancelCommand{.request = id, .index = -1, .reason = "gone", .as_stop = as_stop});
      }
    };
    world.Turn();
    EXPECT_EQ(Steps(), 21);
    world.Settle();
    EXPECT_EQ(sink->answer().finish.reason, as_stop ? FinishReason::kStop : FinishReason::kAbort);
    EXPECT_EQ(sink->answer().tokens.size(), 21u);
    EXPECT_EQ(sink->answer().finishes, 1);
    EXPECT_EQ(other->answer().tokens, expected);
  }
}

TEST_F(StepBehindTest, ATurnEndsAfterASecond) {
  FakeWorld& world = World({.total_pages = 128});
  const auto sink = world.Generate("", 10, 1500);
  const int64_t begin_us = world.clock.NowUs();
  world.Turn();
  EXPECT_FALSE(sink->finished());
  EXPECT_GE(world.clock.NowUs() - begin_us, 1'000'000);
  EXPECT_LT(world.clock.NowUs() - begin_us, 1'010'000);
  world.Settle();
  EXPECT_EQ(sink->answer().tokens.size(), 1500u);
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
