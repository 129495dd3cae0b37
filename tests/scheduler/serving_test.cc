#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_world.h"

namespace lorad {
namespace {

using ::testing::HasSubstr;

std::vector<int32_t> Alone(const Request& request, uint64_t content) {
  return FakeGenerate(request.prompt_ids, content, request.sampling);
}

TEST(ServingTest, ARequestOfTheBaseGetsTheTokensItGetsAlone) {
  FakeWorld world({});
  Request request = world.MakeRequest("", 40, 20);
  const std::vector<int32_t> expected = Alone(request, 0);
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  EXPECT_EQ(sink->answer().tokens, expected);
  EXPECT_EQ(sink->answer().finishes, 1);
  EXPECT_EQ(sink->answer().finish.reason, FinishReason::kLength);
  EXPECT_EQ(sink->answer().finish.usage.prompt_tokens, 40);
  EXPECT_EQ(sink->answer().finish.usage.completion_tokens, 20);
  EXPECT_EQ(world.unused_pages(), world.pages->total_pages());
}

TEST(ServingTest, ManyRequestsOfManyAdaptersGetTheTokensTheyGetAlone) {
  FakeWorld world({.total_pages = 400, .config = {.max_batch_tokens = 100}});
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < 5; ++i) {
    const std::string name = absl::StrCat("a", i);
    world.Folder(name, 100 + i, 1 + i);
    ASSERT_TRUE(world.Load(name).ok());
  }
  for (int i = 0; i < 30; ++i) {
    const std::string name = i % 6 == 5 ? "" : absl::StrCat("a", i % 6);
    Request request = world.MakeRequest(name, 1 + i * 7 % 90, 1 + i * 5 % 40);
    expected.push_back(Alone(request, name.empty() ? 0 : 100 + i % 6));
    sinks.push_back(FakeWorld::SinkOf(request));
    ASSERT_TRUE(world.Submit(std::move(request)).ok());
    if (i % 3 == 0) world.Turn();
  }
  world.Settle();
  for (size_t i = 0; i < sinks.size(); ++i) EXPECT_EQ(sinks[i]->answer().tokens, expected[i]) << i;
  EXPECT_GT(world.observer.steps.size(), 10u);
  EXPECT_EQ(world.pages->used_pages(PageOwner::kKv), world.core.state().prefix_cache->idle_pages());
}

TEST(ServingTest, AStopTokenEndsASequenceAndIsItsLastToken) {
  FakeWorld world({});
  Request request = world.MakeRequest("", 10, 50);
  const std::vector<int32_t> free_run = Alone(request, 0);
  request.sampling.stop_token_ids = {free_run[7]};
  const std::vector<int32_t> expected = Alone(request, 0);
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  EXPECT_EQ(sink->answer().tokens, expected);
  EXPECT_EQ(sink->answer().tokens.back(), free_run[7]);
  EXPECT_EQ(sink->answer().finish.reason, FinishReason::kStop);
}

TEST(ServingTest, StopTokensAreBannedBelowMinTokens) {
  FakeWorld world({});
  Request request = world.MakeRequest("", 10, 50);
  request.sampling.stop_token_ids = {Alone(request, 0)[2]};
  request.sampling.min_tokens = 5;
  const std::vector<int32_t> expected = Alone(request, 0);
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  EXPECT_GE(expected.size(), 6u);
  EXPECT_EQ(sink->answer().tokens, expected);
}

TEST(ServingTest, EachOfNDrawsWithItsOwnSeed) {
  FakeWorld world({});
  Request request = world.MakeRequest("", 10, 8);
  request.n = 3;
  request.sampling.seed = 77;
  const Request copy = request;
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  for (int32_t i = 0; i < 3; ++i) {
    SamplingOptions sampling = copy.sampling;
    sampling.seed = 77 + static_cast<uint64_t>(i);
    EXPECT_EQ(FakeWorld::SinkOf(copy)->answer(i).tokens, FakeGenerate(copy.prompt_ids, 0, sampling));
  }
}

TEST(ServingTest, ALongPromptIsComputedInChunksAndDelaysNoDecode) {
  FakeWorld world({.total_pages = 200, .config = {.max_batch_tokens = 64}});
  const auto talking = world.Generate("", 4, 60);
  world.Turn();
  const auto prompt = world.Generate("", 1000, 2);
  const size_t before = talking->answer().tokens.size();
  for (int i = 0; i < 10; ++i) world.Turn();
  EXPECT_EQ(talking->answer().tokens.size(), before + 10);
  EXPECT_FALSE(prompt->finished());
  for (const StepStats& step : world.observer.steps) EXPECT_LE(step.rows_tokens, 64);
  world.Settle();
  EXPECT_EQ(prompt->answer().tokens.size(), 2u);
}

TEST(ServingTest, PromptLogprobsComeOncePerPromptTokenInTheFirstEvent) {
  FakeWorld world({});
  Request request = world.MakeRequest("", 150, 3);
  request.sampling.prompt_logprobs = 1;
  const Request copy = request;
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  const RecordingSink::Answer answer = FakeWorld::SinkOf(copy)->answer();
  ASSERT_EQ(answer.prompt_logprobs.size(), 150u);
  for (size_t i = 0; i < 150; ++i) EXPECT_EQ(answer.prompt_logprobs[i].token_id, copy.prompt_ids[i]);
}

TEST(ServingTest, ACancelFreesEverythingAtOnce) {
  FakeWorld world({});
  Request request = world.MakeRequest("", 40, 200);
  const auto sink = FakeWorld::SinkOf(request);
  const RequestId id = request.id;
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Turn();
  world.Turn();
  world.inbox.Put(CancelCommand{.request = id, .reason = "the caller went away"});
  world.Turn();
  EXPECT_EQ(world.unused_pages(), world.pages->total_pages());
  EXPECT_EQ(sink->answer().finishes, 1);
  EXPECT_TRUE(sink->answer().finish.status.ok());
  EXPECT_EQ(sink->answer().finish.reason, FinishReason::kAbort);
  EXPECT_EQ(sink->answer().finish.abort_detail, "the caller went away");
}

TEST(ServingTest, ACancelBeforeTheFirstStepIsAStatus) {
  FakeWorld world({});
  Request request = world.MakeRequest("", 40, 200);
  const auto sink = FakeWorld::SinkOf(request);
  const RequestId id = request.id;
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.inbox.Put(CancelCommand{.request = id, .reason = "gone"});
  world.Turn();
  EXPECT_TRUE(absl::IsCancelled(sink->answer().finish.status));
  EXPECT_TRUE(sink->answer().tokens.empty());
}

TEST(ServingTest, ACancelAsStopCountsAsStop) {
  FakeWorld world({});
  Request request = world.MakeRequest("", 4, 200);
  const auto sink = FakeWorld::SinkOf(request);
  const RequestId id = request.id;
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Turn();
  world.inbox.Put(CancelCommand{.request = id, .index = 0, .as_stop = true});
  world.Turn();
  EXPECT_EQ(sink->answer().finish.reason, FinishReason::kStop);
  ASSERT_EQ(world.observer.finished.size(), 1u);
  EXPECT_EQ(world.observer.finished[0].reason, FinishReason::kStop);
}

TEST(ServingTest, ADeadlineEndsARunningSequenceAsAbortAndAWaitingOneWithAStatus) {
  FakeWorld world({.config = {.max_sequences = 1}});
  Request running = world.MakeRequest("", 10, 100'000'000);
  running.max_tokens_is_default = true;
  running.deadline_us = world.clock.NowUs() + 50'000;
  const auto running_sink = FakeWorld::SinkOf(running);
  Request waiting = world.MakeRequest("", 10, 10);
  waiting.deadline_us = world.clock.NowUs() + 20'000;
  const auto waiting_sink = FakeWorld::SinkOf(waiting);
  ASSERT_TRUE(world.Submit(std::move(running)).ok());
  ASSERT_TRUE(world.Submit(std::move(waiting)).ok());
  world.Settle();
  EXPECT_TRUE(absl::IsDeadlineExceeded(waiting_sink->answer().finish.status));
  EXPECT_EQ(running_sink->answer().finish.reason, FinishReason::kAbort);
  EXPECT_THAT(running_sink->answer().finish.abort_detail, HasSubstr("deadline"));
  EXPECT_LE(world.clock.NowUs(), 1'000'000 + 60'000);
}

TEST(ServingTest, AFailedStepEndsItsRowsOnly) {
  FakeWorld world({.config = {.max_sequences = 1}});
  const auto first = world.Generate("", 10, 20);
  const auto second = world.Generate("", 10, 20);
  world.Turn();
  world.executor.step_error = absl::InternalError("device fell over");
  world.Settle();
  EXPECT_EQ(first->answer().finish.reason, FinishReason::kAbort);
  EXPECT_EQ(first->answer().finish.abort_detail, "device fell over");
  EXPECT_EQ(second->answer().tokens.size(), 20u);
}

TEST(ServingTest, AFailedRowEndsThatSequenceAlone) {
  FakeWorld world({});
  const auto first = world.Generate("", 10, 20);
  const auto second = world.Generate("", 10, 20);
  world.Turn();
  world.executor.on_step = [](absl::Span<const ExecRow> rows, StepResult* result) {
    result->rows[0].status = absl::InternalError("logits are not finite");
    result->rows[0].sampled = false;
  };
  world.Turn();
  world.executor.on_step = nullptr;
  world.Settle();
  EXPECT_EQ(first->answer().finish.abort_detail, "logits are not finite");
  EXPECT_EQ(second->answer().tokens.size(), 20u);
}

TEST(ServingTest, ADrainEndsRequestsNormallyUntilItsDeadlineAndThenAborts) {
  FakeWorld world({});
  const auto quick = world.Generate("", 10, 3);
  const auto slow = world.Generate("", 10, 900);
  world.Turn();
  world.inbox.RefuseSubmits();
  world.inbox.Put(DrainCommand{.deadline_us = world.clock.NowUs() + 100'000});
  EXPECT_TRUE(absl::IsUnavailable(world.Submit(world.MakeRequest("", 1, 1))));
  for (int i = 0; i < 1000 && !world.core.drained(); ++i) world.Turn();
  EXPECT_TRUE(world.core.drained());
  EXPECT_EQ(quick->answer().finish.reason, FinishReason::kLength);
  EXPECT_EQ(slow->answer().finish.reason, FinishReason::kAbort);
  EXPECT_EQ(world.unused_pages(), world.pages->total_pages());
}

TEST(ServingTest, TimesAreThoseOfTheFirstStepTheFirstTokenAndTheEnd) {
  FakeWorld world({.config = {.max_sequences = 1}});
  world.Generate("", 10, 3);  // steps of 2,000, 1,100 and 1,100 us
  world.Generate("", 10, 1);
  world.Settle();
  ASSERT_EQ(world.observer.finished.size(), 2u);
  EXPECT_EQ(world.observer.finished[0].queue_us, 0);
  EXPECT_EQ(world.observer.finished[0].first_token_us, 2'000);
  EXPECT_EQ(world.observer.finished[0].end_to_end_us, 4'200);
  EXPECT_EQ(world.observer.finished[1].queue_us, 4'200);
  EXPECT_EQ(world.observer.finished[1].first_token_us, 6'200);
}

TEST(ServingTest, TimesAreToldWhenTheyHappenNotAtTheEnd) {
  FakeWorld world({.config = {.max_sequences = 1}});
  world.Generate("", 10, 3);
  world.Generate("", 10, 1);
  world.Turn();
  EXPECT_TRUE(world.observer.finished.empty());
  EXPECT_THAT(world.observer.queue_times_us, ::testing::ElementsAre(0));
  EXPECT_THAT(world.observer.first_tokens_us, ::testing::ElementsAre(2'000));
  world.Settle();
  EXPECT_THAT(world.observer.queue_times_us, ::testing::ElementsAre(0, 4'200));
  EXPECT_THAT(world.observer.first_tokens_us, ::testing::ElementsAre(2'000, 6'200));
}

TEST(ServingTest, PrioritiesGoFirstThenArrival) {
  FakeWorld world({.config = {.max_sequences = 1}});
  Request late = world.MakeRequest("", 4, 2);
  Request urgent = world.MakeRequest("", 4, 2);
  urgent.priority = -1;
  const auto late_sink = FakeWorld::SinkOf(late);
  const auto urgent_sink = FakeWorld::SinkOf(urgent);
  ASSERT_TRUE(world.Submit(std::move(late)).ok());
  ASSERT_TRUE(world.Submit(std::move(urgent)).ok());
  world.Turn();
  EXPECT_EQ(urgent_sink->answer().tokens.size(), 1u);
  EXPECT_EQ(late_sink->answer().tokens.size(), 0u);
}

TEST(ServingTest, StepsThatWereCapturedDoNotTellHowLongStepsTake) {
  FakeWorld world({.config = {.max_batch_tokens = 256, .prefix_cache = false}});
  world.executor.on_step = [](absl::Span<const ExecRow>, StepResult* result) {
    result->device.how = "captured";
    result->execute_us = 3'000'000;
  };
  world.Generate("", 40, 3);
  world.Settle();
  world.executor.on_step = nullptr;
  world.Generate("", 200, 1);
  world.Settle();
  EXPECT_EQ(world.observer.steps.at(3).rows_tokens, 128);  // as of a first prompt, of steps that nobody knows
}

TEST(ServingTest, PreemptedSequencesAreComputedAgainAndAnswerTheSame) {
  FakeWorld world({.total_pages = 10, .config = {.max_batch_tokens = 64}});
  std::vector<Request> requests;
  for (int i = 0; i < 5; ++i) {
    requests.push_back(world.MakeRequest("", 20, 80));
    ASSERT_TRUE(world.Submit(requests.back()).ok());
  }
  world.Settle();
  EXPECT_GT(world.observer.preempted, 0);
  for (const Request& request : requests) EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens, Alone(request, 0));
}

}  // namespace
}  // namespace lorad
