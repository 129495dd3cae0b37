#include "scheduler/prefix_reuse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "adapters/invocation.h"
#include "tests/support/fake_world.h"

namespace lorad {
namespace {

std::vector<int32_t> Prompt(int64_t tokens, int32_t first = 0) {
  std::vector<int32_t> prompt(static_cast<size_t>(tokens));
  std::iota(prompt.begin(), prompt.end(), first);
  return prompt;
}

class PrefixReuseTest : public testing::Test {
 protected:
  void Make(FakeWorldOptions options = {}) { world_.emplace(options); }
  FakeWorld& world() { return *world_; }

  Request RequestOf(std::vector<int32_t> prompt, int64_t max_tokens, const std::string& adapter = "") {
    Request request = world().MakeRequest(adapter, 1, max_tokens);
    request.prompt_ids = std::move(prompt);
    return request;
  }
  std::shared_ptr<RecordingSink> Submit(const Request& request) {
    LORAD_CHECK(world().Submit(request).ok());
    return FakeWorld::SinkOf(request);
  }
  // Runs it to its end; it must get the tokens that it gets alone.
  RecordingSink::Answer Run(const Request& request, uint64_t content = 0) {
    const auto sink = Submit(request);
    world().Settle();
    EXPECT_EQ(sink->answer().tokens, FakeGenerate(request.prompt_ids, content, request.sampling));
    return sink->answer();
  }
  int64_t Cached(const RecordingSink::Answer& answer) { return answer.finish.usage.cached_tokens; }
  int64_t ComputedTokens() {
    int64_t tokens = 0;
    for (const StepStats& step : world().observer.steps) tokens += step.rows_tokens;
    return tokens;
  }
  int64_t CachedBlocks() { return world().core.state().prefix_cache->stats().blocks; }
  PrefixCacheSnapshot Counters() { return world().core.snapshot()->prefix_cache; }

  std::optional<FakeWorld> world_;
};

TEST_F(PrefixReuseTest, TheSamePromptAgainComputesOnlyWhatFollowsItsFullBlocks) {
  Make();
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4))), 0);
  const int64_t before = ComputedTokens();
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4))), 48);
  EXPECT_EQ(ComputedTokens() - before, 2 + 3);
  EXPECT_EQ(Counters().query_tokens, 100);
  EXPECT_EQ(Counters().hit_tokens, 48);
}

TEST_F(PrefixReuseTest, TheLastTokenIsAlwaysComputed) {
  Make();
  Run(RequestOf(Prompt(48), 1));
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(48), 1))), 32);
  EXPECT_EQ(CachedBlocks(), 3);  // the block computed twice is kept once
  EXPECT_EQ(world().pages->used_pages(PageOwner::kKv), 3);
}

TEST_F(PrefixReuseTest, AnAnswerIsReusedAsWhatAConversationBeginsWith) {
  Make();
  std::vector<int32_t> prompt = Prompt(20);
  const RecordingSink::Answer first = Run(RequestOf(prompt, 30));
  prompt.insert(prompt.end(), first.tokens.begin(), first.tokens.end());
  prompt.push_back(5);
  EXPECT_EQ(Cached(Run(RequestOf(prompt, 4))), 48);  // of 20 + 29 computed ones
}

TEST_F(PrefixReuseTest, OffNothingIsKept) {
  Make({.config = {.prefix_cache = false}});
  Run(RequestOf(Prompt(50), 4));
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4))), 0);
  EXPECT_EQ(world().pages->free_pages(), world().pages->total_pages());
  EXPECT_EQ(Counters().query_tokens, 0);
}

TEST_F(PrefixReuseTest, PromptLogprobsAreComputedAndTheirBlocksShared) {
  Make();
  Request request = RequestOf(Prompt(50), 4);
  request.sampling.prompt_logprobs = 0;
  Run(request);
  Request again = RequestOf(Prompt(50), 4);
  again.sampling.prompt_logprobs = 0;
  const RecordingSink::Answer answer = Run(again);
  EXPECT_EQ(Cached(answer), 0);
  EXPECT_EQ(answer.prompt_logprobs.size(), 50u);
  EXPECT_EQ(Counters().query_tokens, 0);
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4))), 48);
}

TEST_F(PrefixReuseTest, TheGenerationsOfARequestShareItsPrompt) {
  Make();
  Request request = RequestOf(Prompt(100), 3);
  request.n = 4;
  const auto sink = Submit(request);
  world().Turn();
  EXPECT_EQ(ComputedTokens(), 100);  // the first alone
  world().Turn();
  EXPECT_EQ(world().pages->used_pages(PageOwner::kKv), 6 + 4);
  world().Settle();
  EXPECT_EQ(ComputedTokens(), 100 + 3 * 4 + 4 * 2);
  for (int32_t i = 0; i < 4; ++i) {
    SamplingOptions sampling = request.sampling;
    sampling.seed += static_cast<uint64_t>(i);
    EXPECT_EQ(sink->answer(i).tokens, FakeGenerate(request.prompt_ids, 0, sampling));
    EXPECT_EQ(Cached(sink->answer(i)), i == 0 ? 0 : 96);
  }
}

TEST_F(PrefixReuseTest, PromptsThatArriveTogetherComputeTheirCommonPartOnce) {
  Make({.config = {.max_batch_tokens = 64}});
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int32_t i = 0; i < 6; ++i) {
    std::vector<int32_t> prompt = Prompt(160);
    prompt.push_back(500 + i);
    sinks.push_back(Submit(RequestOf(prompt, 1)));
  }
  world().Settle();
  EXPECT_EQ(ComputedTokens(), 160 + 6);
  EXPECT_EQ(Counters().hit_tokens, 5 * 160);
}

TEST_F(PrefixReuseTest, AdaptersAndTheBaseShareNothing) {
  Make();
  world().Folder("a", 11);
  world().Folder("b", 12);
  ASSERT_TRUE(world().Load("a").ok() && world().Load("b").ok());
  Run(RequestOf(Prompt(50), 4, "a"), 11);
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4, "b"), 12)), 0);
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4))), 0);
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4, "a"), 11)), 48);
}

TEST_F(PrefixReuseTest, TwoNamesOfOneContentShare) {
  Make();
  world().Folder("a", 11);
  world().Folder("b", 11);
  ASSERT_TRUE(world().Load("a").ok() && world().Load("b").ok());
  Run(RequestOf(Prompt(50), 4, "a"), 11);
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4, "b"), 11)), 48);
  const auto unloaded = world().Unload("a");
  world().Settle();
  ASSERT_TRUE((*unloaded)->ok());
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4, "b"), 11)), 48);
}

TEST_F(PrefixReuseTest, AReplacedAdapterNeverMeetsTheOldOnesBlocks) {
  Make();
  world().Folder("a", 11);
  ASSERT_TRUE(world().Load("a").ok());
  Run(RequestOf(Prompt(50), 4, "a"), 11);
  EXPECT_GT(CachedBlocks(), 0);
  world().Folder("a", 12);
  ASSERT_TRUE(world().Load("a", /*pinned=*/false, /*replace=*/true).ok());
  world().Settle();
  EXPECT_EQ(CachedBlocks(), 0);  // freed at once
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4, "a"), 12)), 0);
  world().Folder("a", 11);
  ASSERT_TRUE(world().Load("a", /*pinned=*/false, /*replace=*/true).ok());
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4, "a"), 11)), 0);
}

TEST_F(PrefixReuseTest, UnloadFreesTheBlocksOnceItsLastSequenceEnds) {
  Make();
  world().Folder("a", 11);
  ASSERT_TRUE(world().Load("a").ok());
  Run(RequestOf(Prompt(50), 4, "a"), 11);
  const Request running = RequestOf(Prompt(50), 20, "a");
  const auto sink = Submit(running);
  world().Turn();
  const auto unloaded = world().Unload("a");
  world().Turn();
  EXPECT_GT(CachedBlocks(), 0);
  EXPECT_FALSE(unloaded->has_value());
  world().Settle();
  EXPECT_EQ(sink->answer().tokens, FakeGenerate(running.prompt_ids, 11, running.sampling));
  EXPECT_TRUE((*unloaded)->ok());
  EXPECT_EQ(CachedBlocks(), 0);
  EXPECT_EQ(world().pages->free_pages(), world().pages->total_pages());
}

TEST_F(PrefixReuseTest, BlocksOutliveTheEvictionOfTheirAdapter) {
  Make({.total_pages = 40});
  world().Folder("a", 11, 4);
  ASSERT_TRUE(world().Load("a").ok());
  Run(RequestOf(Prompt(50), 4, "a"), 11);
  world().pool.EvictUntilFree(40);
  world().Settle();
  EXPECT_EQ(world().pool.resident_count(), 0);
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(50), 4, "a"), 11)), 48);
}

class AloraReuseTest : public PrefixReuseTest {
 protected:
  const std::vector<int32_t> kInvocation = {901, 902};

  void SetUp() override {
    Make();
    for (const auto& [name, content] : {std::pair("a", 11), std::pair("b", 12)}) {
      world().Folder(name, content);
      world().loader.folders[FakeWorld::PathOf(name)].invocation_tokens = kInvocation;
      ASSERT_TRUE(world().Load(name).ok());
    }
  }
  std::vector<int32_t> InvokedAt(std::vector<int32_t> prompt, int64_t position) const {
    std::copy(kInvocation.begin(), kInvocation.end(), prompt.begin() + position);
    return prompt;
  }
  // It must get the tokens that it gets alone, from `active_from` on those of its adapter.
  int64_t RunFrom(int64_t active_from, std::vector<int32_t> prompt, const std::string& adapter) {
    const Request request = RequestOf(std::move(prompt), 6, adapter);
    const auto sink = Submit(request);
    world().Settle();
    const uint64_t content = adapter.empty() ? 0 : adapter == "a" ? 11 : 12;
    EXPECT_EQ(sink->answer().tokens, FakeGenerate(request.prompt_ids, content, request.sampling, {}, active_from));
    return Cached(sink->answer());
  }
};

TEST_F(AloraReuseTest, WhatComesBeforeTheInvocationIsTheBases) {
  EXPECT_EQ(RunFrom(0, Prompt(70), ""), 0);
  EXPECT_EQ(RunFrom(50, InvokedAt(Prompt(70), 50), "a"), 48);
  EXPECT_EQ(RunFrom(50, InvokedAt(Prompt(70), 50), "a"), 64);  // the rest under its own content
  EXPECT_EQ(RunFrom(50, InvokedAt(Prompt(70), 50), "b"), 48);
  EXPECT_EQ(RunFrom(0, InvokedAt(Prompt(70), 50), ""), 48);
}

TEST_F(AloraReuseTest, TheBaseFindsWhatAnAloraComputedBeforeItsInvocation) {
  EXPECT_EQ(RunFrom(34, InvokedAt(Prompt(70, 100), 34), "a"), 0);
  EXPECT_EQ(RunFrom(0, Prompt(70, 100), ""), 32);
}

TEST_F(AloraReuseTest, AnotherInvocationFurtherOnMakesWhatLiesBetweenTheBases) {
  const std::vector<int32_t> once = InvokedAt(Prompt(70), 20), twice = InvokedAt(once, 66);
  EXPECT_EQ(RunFrom(20, once, "a"), 0);
  EXPECT_EQ(RunFrom(66, twice, "a"), 16);
  EXPECT_EQ(RunFrom(66, twice, "a"), 64);
  EXPECT_EQ(RunFrom(20, once, "a"), 64);
}

TEST_F(AloraReuseTest, WithoutAnInvocationItIsTheBase) {
  EXPECT_EQ(RunFrom(kNeverActive, Prompt(70), "a"), 0);
  EXPECT_EQ(RunFrom(0, Prompt(70), ""), 64);
  std::vector<int32_t> cut = Prompt(70);
  cut.back() = kInvocation.front();
  EXPECT_EQ(RunFrom(kNeverActive, cut, "b"), 64);
}

TEST_F(AloraReuseTest, ItsBlocksGoWithItAndTheBasesStay) {
  RunFrom(34, InvokedAt(Prompt(70), 34), "a");
  EXPECT_EQ(CachedBlocks(), 4);
  world().Unload("a");
  world().Settle();
  EXPECT_EQ(CachedBlocks(), 2);
  EXPECT_EQ(RunFrom(0, Prompt(70), ""), 32);
}

TEST_F(AloraReuseTest, WhatIsKnownOnlyLaterCountsFromThenOn) {
  world().Unload("a");
  world().Settle();
  RunFrom(0, Prompt(70), "");
  const Request request = RequestOf(InvokedAt(Prompt(70), 50), 6, "a");
  LORAD_CHECK(world().Submit(request, FakeWorld::PathOf("a")).ok());  // read at first use
  world().Settle();
  const RecordingSink::Answer answer = FakeWorld::SinkOf(request)->answer();
  EXPECT_EQ(answer.tokens, FakeGenerate(request.prompt_ids, 11, request.sampling, {}, 50));
  EXPECT_EQ(Cached(answer), 48);
}

TEST_F(PrefixReuseTest, APreemptedSequenceGoesOnWhereItWas) {
  Make({.total_pages = 10, .config = {.max_batch_tokens = 200}});
  std::vector<Request> requests;
  for (int32_t i = 0; i < 2; ++i) {
    requests.push_back(RequestOf(Prompt(40, 100 * i), 60));
    Submit(requests.back());
  }
  world().Settle();
  ASSERT_GT(world().observer.preempted, 0);
  int64_t needed = 0;
  for (const Request& request : requests) {
    needed += 40 + 59;
    const RecordingSink::Answer answer = FakeWorld::SinkOf(request)->answer();
    EXPECT_EQ(answer.tokens, FakeGenerate(request.prompt_ids, 0, request.sampling));
    EXPECT_EQ(Cached(answer), 0);  // tells of the prompt when it first began
  }
  // What the other one did not take of it meanwhile was not computed again.
  EXPECT_LT(ComputedTokens(), needed + world().observer.preempted * 60);
}

TEST_F(PrefixReuseTest, WhatAFailedStepWroteIsNotShared) {
  Make();
  world().executor.step_error = absl::InternalError("the device fell over");
  const auto sink = Submit(RequestOf(Prompt(50), 4));
  world().Settle();
  EXPECT_FALSE(sink->answer().finish.status.ok());
  EXPECT_EQ(CachedBlocks(), 0);
}

TEST_F(PrefixReuseTest, WhatAFailedRowWroteIsNotShared) {
  Make();
  world().executor.on_step = [this](absl::Span<const ExecRow>, StepResult* result) {
    result->rows[0].status = absl::InternalError("not finite");
    world().executor.on_step = nullptr;
  };
  const auto sink = Submit(RequestOf(Prompt(50), 4));
  world().Settle();
  EXPECT_EQ(CachedBlocks(), 0);
}

TEST_F(PrefixReuseTest, WhatWasUsedLongestAgoGoesFirstBlockOrAdapter) {
  Make({.total_pages = 20});
  world().Folder("old", 1, 4);
  world().Folder("new", 2, 4);
  ASSERT_TRUE(world().Load("old").ok());
  Run(RequestOf(Prompt(65), 1));  // 4 cached blocks
  ASSERT_TRUE(world().Load("new").ok());
  ASSERT_EQ(world().pages->free_pages(), 8);
  // 10 blocks: the old adapter goes, and with it two pages more than needed.
  Run(RequestOf(Prompt(160, 1000), 1));
  EXPECT_FALSE(world().pool.IsResident(world().core.state().adapters.Current("old")->id));
  EXPECT_TRUE(world().pool.IsResident(world().core.state().adapters.Current("new")->id));
  EXPECT_EQ(CachedBlocks(), 4 + 10);
  // 4 blocks more: the oldest blocks go before the adapter that came after them.
  Run(RequestOf(Prompt(64, 3000), 1));
  EXPECT_TRUE(world().pool.IsResident(world().core.state().adapters.Current("new")->id));
  EXPECT_EQ(world().core.state().prefix_cache->stats().evicted_blocks, 2);
}

TEST_F(PrefixReuseTest, CachedBlocksAreRoomForAnAdapter) {
  Make({.total_pages = 16});
  Run(RequestOf(Prompt(15 * kKvBlockTokens + 1), 1));
  EXPECT_LT(world().pages->free_pages(), 6);
  world().Folder("a", 11, 6);
  ASSERT_TRUE(world().Load("a").ok());
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(20), 4, "a"), 11)), 0);
  EXPECT_EQ(world().pool.resident_count(), 1);
}

TEST_F(PrefixReuseTest, AnAdapterThatIsWantedTakesOldAdaptersBeforeNewBlocks) {
  Make({.total_pages = 20});
  world().Folder("old", 1, 8);
  ASSERT_TRUE(world().Load("old").ok());
  Run(RequestOf(Prompt(10 * kKvBlockTokens + 1), 1));
  world().Folder("a", 11, 8);
  Run(RequestOf(Prompt(4), 2));
  const Request request = RequestOf(Prompt(4), 2, "a");
  const auto loaded = world().StartLoad("a");
  Submit(request);
  world().Settle();
  ASSERT_TRUE((*loaded)->ok());
  EXPECT_FALSE(world().pool.IsResident(world().core.state().adapters.Current("old")->id));
  EXPECT_EQ(Cached(Run(RequestOf(Prompt(10 * kKvBlockTokens + 1), 1))), 160);
}

TEST_F(PrefixReuseTest, MoreCanRunThanMemoryWouldHoldWithoutSharing) {
  Make({.total_pages = 16, .config = {.max_sequences = 8}});
  Run(RequestOf(Prompt(161), 1));
  std::vector<Request> requests;
  for (int32_t i = 0; i < 4; ++i) {
    std::vector<int32_t> prompt = Prompt(160);
    prompt.push_back(700 + i);
    requests.push_back(RequestOf(prompt, 10));
    Submit(requests.back());
  }
  world().Turn();
  world().Turn();
  EXPECT_EQ(world().core.snapshot()->running_sequences, 4);
  world().Settle();
  EXPECT_EQ(world().observer.preempted, 0);
  for (const Request& request : requests) {
    EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens, FakeGenerate(request.prompt_ids, 0, request.sampling));
  }
}

}  // namespace
}  // namespace lorad
