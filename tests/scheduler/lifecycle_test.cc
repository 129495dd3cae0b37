#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_world.h"

namespace lorad {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<int32_t> Alone(const Request& request, uint64_t content) {
  return FakeGenerate(request.prompt_ids, content, request.sampling);
}

TEST(LifecycleTest, ALoadIsAnsweredWhenItIsResidentAndListed) {
  FakeWorld world({});
  world.Folder("poet", 5, 3);
  const absl::StatusOr<AdapterInfo> info = world.Load("poet");
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->state, AdapterState::kResident);
  EXPECT_EQ(info->digest, "digest-5");
  ASSERT_NE(world.Listed("poet"), nullptr);
  EXPECT_THAT(world.core.snapshot()->adapters->resident, ElementsAre("poet"));
  EXPECT_EQ(world.core.snapshot()->adapter_pages, 3);
}

TEST(LifecycleTest, TheSnapshotShowsALoadBeforeItsReplyIsCalled) {
  FakeWorld world({});
  world.Folder("poet", 5);
  bool listed = false;
  ASSERT_TRUE(world.inbox
                  .PutAdapter(LoadCommand{.name = "poet",
                                          .path = FakeWorld::PathOf("poet"),
                                          .reply = [&](const auto&) { listed = world.Listed("poet") != nullptr; }})
                  .ok());
  world.Settle();
  EXPECT_TRUE(listed);
}

TEST(LifecycleTest, AKnownNameIsNotLoadedAgainWithoutReplace) {
  FakeWorld world({});
  world.Folder("poet", 5);
  ASSERT_TRUE(world.Load("poet").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(world.Load("poet").status()));
}

TEST(LifecycleTest, AnUnknownNameIsNotFound) {
  FakeWorld world({});
  const auto sink = world.Generate("nobody", 4, 4);
  world.Settle();
  EXPECT_TRUE(absl::IsNotFound(sink->answer().finish.status));
}

TEST(LifecycleTest, ARequestWaitsForItsLoadingAdapterWhileOthersRun) {
  FakeWorld world({});
  world.Folder("slow", 5);
  const auto load = world.StartLoad("slow");
  Request cold = world.MakeRequest("slow", 10, 5);
  const std::vector<int32_t> expected = Alone(cold, 5);
  const auto cold_sink = FakeWorld::SinkOf(cold);
  ASSERT_TRUE(world.Submit(std::move(cold)).ok());
  const auto behind = world.Generate("", 10, 5);
  for (int i = 0; i < 10; ++i) world.Turn();
  EXPECT_TRUE(behind->finished());
  EXPECT_EQ(cold_sink->answer().events, 0);
  world.Settle();
  EXPECT_EQ(cold_sink->answer().tokens, expected);
  EXPECT_EQ(cold_sink->answer().adapter, "slow");
}

TEST(LifecycleTest, AFailedLoadTellsWhyAndEndsItsWaitingRequestsWithIt) {
  FakeWorld world({});
  world.loader.folders[FakeWorld::PathOf("bad")] = {.error = absl::DataLossError("q_proj: short by 7 bytes")};
  const auto load = world.StartLoad("bad");
  const auto sink = world.Generate("bad", 4, 4);
  world.Settle();
  EXPECT_TRUE(absl::IsDataLoss((*load)->status()));
  EXPECT_TRUE(absl::IsDataLoss(sink->answer().finish.status));
  ASSERT_NE(world.Listed("bad"), nullptr);
  EXPECT_EQ(world.Listed("bad")->state, AdapterState::kFailed);
  EXPECT_THAT(world.Listed("bad")->error, HasSubstr("short by 7 bytes"));
}

TEST(LifecycleTest, AFailureIsForgottenWhenTheNameLoads) {
  FakeWorld world({});
  world.loader.folders[FakeWorld::PathOf("bad")] = {.error = absl::DataLossError("corrupt")};
  EXPECT_FALSE(world.Load("bad").ok());
  world.Folder("bad", 9);
  ASSERT_TRUE(world.Load("bad").ok());
  EXPECT_EQ(world.core.snapshot()->adapters->all.size(), 1u);
}

TEST(LifecycleTest, OnlySoManyFailuresAreRemembered) {
  FakeWorld world({});
  for (int i = 0; i < 150; ++i) EXPECT_FALSE(world.Load(absl::StrCat("bad-", i)).ok());
  EXPECT_EQ(world.core.snapshot()->adapters->all.size(), 100u);
}

TEST(LifecycleTest, UnloadLetsRunningAndWaitingRequestsFinishAndTakesNoNewOnes) {
  FakeWorld world({.config = {.max_sequences = 1}});
  world.Folder("poet", 5, 2);
  ASSERT_TRUE(world.Load("poet").ok());
  Request running = world.MakeRequest("poet", 10, 30);
  Request waiting = world.MakeRequest("poet", 10, 30);
  ASSERT_TRUE(world.Submit(running).ok());
  ASSERT_TRUE(world.Submit(waiting).ok());
  world.Turn();
  const auto unload = world.Unload("poet");
  const auto late = world.Generate("poet", 4, 4);
  world.Turn();
  EXPECT_TRUE(absl::IsNotFound(late->answer().finish.status));
  EXPECT_FALSE(unload->has_value());
  EXPECT_EQ(world.Listed("poet")->state, AdapterState::kDraining);
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(running)->answer().tokens, Alone(running, 5));
  EXPECT_EQ(FakeWorld::SinkOf(waiting)->answer().tokens, Alone(waiting, 5));
  EXPECT_TRUE((*unload)->ok());
  EXPECT_EQ(world.pages->free_pages(), world.pages->total_pages());
  EXPECT_EQ(world.Listed("poet"), nullptr);
}

TEST(LifecycleTest, UnloadOfALoadingAdapterCancelsTheLoad) {
  FakeWorld world({});
  world.Folder("slow", 5);
  world.loader.folders[FakeWorld::PathOf("slow")].hangs = true;
  const auto load = world.StartLoad("slow");
  const auto waiting = world.Generate("slow", 4, 4);
  world.Turn();
  const auto unload = world.Unload("slow");
  world.Settle();
  EXPECT_TRUE(absl::IsCancelled((*load)->status()));
  EXPECT_TRUE((*unload)->ok());
  EXPECT_TRUE(absl::IsNotFound(waiting->answer().finish.status));
  // The late answer of the loader is of no interest.
  world.loader.folders[FakeWorld::PathOf("slow")].hangs = false;
  world.Settle();
  EXPECT_EQ(world.Listed("slow"), nullptr);
}

TEST(LifecycleTest, UnloadWhileItsPagesAreBeingFilledGivesThemBackAfterwards) {
  FakeWorld world({});
  world.Folder("poet", 5, 4);
  const auto load = world.StartLoad("poet");
  world.Turn();
  world.AnswerLoader();
  world.Turn();
  ASSERT_EQ(world.loader.jobs.size(), 1u);
  ASSERT_TRUE(world.loader.jobs[0].pack);
  const auto unload = world.Unload("poet");
  world.Turn();
  EXPECT_FALSE(unload->has_value());
  EXPECT_EQ(world.pages->used_pages(PageOwner::kAdapter), 4);
  world.Settle();
  EXPECT_TRUE((*unload)->ok());
  EXPECT_EQ(world.pages->used_pages(PageOwner::kAdapter), 0);
}

TEST(LifecycleTest, ReplaceSwitchesWhenTheNewVersionIsReady) {
  FakeWorld world({});
  world.Folder("poet", 5);
  ASSERT_TRUE(world.Load("poet").ok());
  world.Folder("poet", 6);
  const auto replace = world.StartLoad("poet", /*pinned=*/false, /*replace=*/true);
  Request before = world.MakeRequest("poet", 8, 20);
  ASSERT_TRUE(world.Submit(before).ok());
  world.Turn();
  ASSERT_FALSE(replace->has_value());
  world.AnswerLoader();
  world.Turn();
  world.AnswerLoader();
  world.Turn();
  ASSERT_TRUE(replace->has_value());
  Request after = world.MakeRequest("poet", 8, 20);
  ASSERT_TRUE(world.Submit(after).ok());
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(before)->answer().tokens, Alone(before, 5));
  EXPECT_EQ(FakeWorld::SinkOf(after)->answer().tokens, Alone(after, 6));
  EXPECT_EQ(world.core.snapshot()->adapters->all.size(), 1u);
  EXPECT_EQ(world.core.snapshot()->adapter_pages, 1);
}

TEST(LifecycleTest, AReplaceThatFailsKeepsTheOldVersion) {
  FakeWorld world({});
  world.Folder("poet", 5);
  ASSERT_TRUE(world.Load("poet").ok());
  world.loader.folders[FakeWorld::PathOf("poet")] = {.error = absl::DataLossError("corrupt")};
  EXPECT_TRUE(absl::IsDataLoss(world.Load("poet", false, true).status()));
  Request request = world.MakeRequest("poet", 8, 20);
  ASSERT_TRUE(world.Submit(request).ok());
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens, Alone(request, 5));
}

TEST(LifecycleTest, AFolderOfAdapterDirLoadsAtFirstUse) {
  FakeWorld world({});
  world.Folder("found", 8);
  Request request = world.MakeRequest("found", 8, 20);
  ASSERT_TRUE(world.Submit(request, FakeWorld::PathOf("found")).ok());
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens, Alone(request, 8));
  EXPECT_NE(world.Listed("found"), nullptr);
}

std::vector<std::string> PathsBeingRead(const FakeWorld& world) {
  std::vector<std::string> paths;
  for (const FakeLoader::Job& job : world.loader.jobs) paths.push_back(job.path);
  return paths;
}

TEST(LifecycleTest, AdaptersAreReadInTheOrderInWhichTheirRequestsWillBegin) {
  FakeWorld world({});
  const std::pair<const char*, int32_t> asked[] = {{"late", 3}, {"b", 1}, {"a", 0}, {"d", 2}, {"c", 1}, {"last", 4}};
  for (const auto& [name, priority] : asked) {
    world.Folder(name, 1);
    Request request = world.MakeRequest(name, 4, 4);
    request.priority = priority;
    ASSERT_TRUE(world.Submit(std::move(request), FakeWorld::PathOf(name)).ok());
  }
  world.Turn();
  EXPECT_THAT(PathsBeingRead(world), ElementsAre("/adapters/a", "/adapters/b", "/adapters/c", "/adapters/d"));
}

TEST(LifecycleTest, UnderFairShareTheAdapterOfWhoHasHadMostIsReadLast) {
  FakeWorld world({.config = {.order = "fair_share"}});
  for (const char* name : {"greedy", "a", "b", "c", "d"}) world.Folder(name, 1);
  ASSERT_TRUE(world.Load("greedy").ok());
  world.Generate("greedy", 20, 40);
  world.Settle();
  world.Unload("greedy");
  world.Settle();
  for (const char* name : {"greedy", "a", "b", "c", "d"}) {
    ASSERT_TRUE(world.Submit(world.MakeRequest(name, 4, 4), FakeWorld::PathOf(name)).ok());
  }
  world.Turn();
  EXPECT_THAT(PathsBeingRead(world), ElementsAre("/adapters/a", "/adapters/b", "/adapters/c", "/adapters/d"));
}

TEST(LifecycleTest, AFolderThatNobodyWaitsForAnyMoreIsForgottenUnread) {
  FakeWorld world({});
  std::vector<Request> requests;
  for (int i = 0; i < 10; ++i) {
    const std::string name = absl::StrCat("slow-", i);
    world.Folder(name, 1 + i);
    world.loader.folders[FakeWorld::PathOf(name)].hangs = true;
    requests.push_back(world.MakeRequest(name, 8, 20));
    ASSERT_TRUE(world.Submit(requests.back(), FakeWorld::PathOf(name)).ok());
  }
  world.Settle();
  EXPECT_LT(world.loader.jobs.size(), 10u);
  ASSERT_NE(world.Listed("slow-9"), nullptr);
  EXPECT_EQ(world.Listed("slow-9")->state, AdapterState::kLoading);
  world.inbox.Put(CancelCommand{.request = requests[9].id});
  world.Settle();
  EXPECT_EQ(world.Listed("slow-9"), nullptr);
  // Reads that last long make way for it.
  world.loader.folders[FakeWorld::PathOf("slow-8")].hangs = false;
  for (int i = 0; i < 3; ++i) {
    world.clock.Advance(2'000'000);
    world.Settle();
  }
  EXPECT_EQ(FakeWorld::SinkOf(requests[8])->answer().tokens.size(), 20u);
}

TEST(LifecycleTest, AFailureIsForgottenWhenTheNameIsFoundInAdapterDir) {
  FakeWorld world({});
  ASSERT_FALSE(world.Load("poet").ok());
  world.Folder("poet", 3);
  Request request = world.MakeRequest("poet", 8, 20);
  ASSERT_TRUE(world.Submit(request, FakeWorld::PathOf("poet")).ok());
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens.size(), 20u);
  EXPECT_EQ(world.core.snapshot()->adapters->all.size(), 1u);
}

TEST(LifecycleTest, AFolderThatCannotBeReadEndsItsRequestsAndTheNameIsUnknownAgain) {
  FakeWorld world({});
  const auto sink = [&] {
    Request request = world.MakeRequest("missing", 8, 20);
    auto its = FakeWorld::SinkOf(request);
    EXPECT_TRUE(world.Submit(std::move(request), FakeWorld::PathOf("missing")).ok());
    return its;
  };
  const auto first = sink();
  world.Settle();
  EXPECT_TRUE(absl::IsNotFound(first->answer().finish.status));
  EXPECT_EQ(world.Listed("missing"), nullptr);
  world.Folder("missing", 3);
  const auto second = sink();
  world.Settle();
  EXPECT_EQ(second->answer().tokens.size(), 20u);
}

TEST(LifecycleTest, AnEvictedAdapterIsReadAgainAndItsDigestChecked) {
  FakeWorld world({.total_pages = 8});
  world.Folder("a", 1, 5);
  world.Folder("b", 2, 5);
  ASSERT_TRUE(world.Load("a").ok());
  ASSERT_TRUE(world.Load("b").ok());
  EXPECT_EQ(world.Listed("a")->state, AdapterState::kHost);
  EXPECT_EQ(world.observer.evicted, 1);
  Request request = world.MakeRequest("a", 8, 20);
  ASSERT_TRUE(world.Submit(request).ok());
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens, Alone(request, 1));
  EXPECT_EQ(world.Listed("b")->state, AdapterState::kHost);
  world.Folder("b", 99, 5);
  const auto changed = world.Generate("b", 8, 20);
  world.Settle();
  EXPECT_TRUE(absl::IsDataLoss(changed->answer().finish.status));
  EXPECT_THAT(world.Listed("b")->error, HasSubstr("changed on disk"));
  world.Folder("b", 2, 5);
  const auto restored = world.Generate("b", 8, 20);
  world.Settle();
  EXPECT_EQ(restored->answer().tokens.size(), 20u);
  EXPECT_EQ(world.Listed("b")->error, "");
}

TEST(LifecycleTest, ALoadThatFindsNoRoomIsAnsweredAsHost) {
  FakeWorld world({.total_pages = 8});
  world.Folder("a", 1, 5);
  world.Folder("b", 2, 5);
  ASSERT_TRUE(world.Load("a").ok());
  const auto busy = world.Generate("a", 8, 30);
  world.Turn();
  const absl::StatusOr<AdapterInfo> info = world.Load("b");
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->state, AdapterState::kHost);
  EXPECT_FALSE(busy->finished());
}

TEST(LifecycleTest, PinMakesAHostAdapterResidentAndKeepsIt) {
  FakeWorld world({.total_pages = 16, .config = {.max_context_tokens = 64}});
  world.Folder("a", 1, 6);
  world.Folder("b", 2, 6);
  world.Folder("c", 3, 6);
  ASSERT_TRUE(world.Load("a").ok());
  const auto pin = world.Pin("a", true);
  world.Settle();
  ASSERT_TRUE((*pin)->ok());
  EXPECT_TRUE((*pin)->value().pinned);
  ASSERT_TRUE(world.Load("b").ok());
  ASSERT_TRUE(world.Load("c").ok());
  EXPECT_EQ(world.Listed("a")->state, AdapterState::kResident);
  EXPECT_EQ(world.Listed("b")->state, AdapterState::kHost);
}

TEST(LifecycleTest, PinsThatWouldLeaveTooLittleForKvAreRefusedWithTheNumbers) {
  FakeWorld world({.total_pages = 16, .config = {.max_context_tokens = 64}});
  world.Folder("a", 1, 7);
  world.Folder("b", 2, 7);
  ASSERT_TRUE(world.Load("a", /*pinned=*/true).ok());
  const absl::StatusOr<AdapterInfo> second = world.Load("b", /*pinned=*/true);
  EXPECT_TRUE(absl::IsResourceExhausted(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("7 + 7; limit: 12 of 16"));
}

TEST(LifecycleTest, ARequestThatCannotRunBesideItsAdapterIsRefusedOnceItsSizeIsKnown) {
  FakeWorld world({.total_pages = 10});
  world.Folder("big", 1, 8);
  const auto load = world.StartLoad("big");
  const auto sink = world.Generate("big", 40, 40);
  world.Settle();
  EXPECT_TRUE(absl::IsInvalidArgument(sink->answer().finish.status));
}

TEST(LifecycleTest, AnAdapterLargerThanTheMemoryIsRefused) {
  FakeWorld world({.total_pages = 10});
  world.Folder("huge", 1, 11);
  EXPECT_TRUE(absl::IsInvalidArgument(world.Load("huge").status()));
}

TEST(LifecycleTest, AStepCostsNothingForThousandsOfQuietNames) {
  FakeWorld world({.total_pages = 3'000, .config = {.command_limit = 20'000}});
  for (int i = 0; i < 2'000; ++i) {
    const std::string name = absl::StrCat("n", i);
    world.Folder(name, 1 + i);
    world.StartLoad(name);
    if (i % 100 == 99) world.Settle();
  }
  EXPECT_EQ(world.core.snapshot()->adapters->all.size(), 2'000u);
  EXPECT_THAT(world.core.state().adapters.Watched(), IsEmpty());
  const auto before = world.core.snapshot()->adapters;
  world.Generate("", 4, 10);
  world.Settle();
  EXPECT_EQ(world.core.snapshot()->adapters, before);
}

TEST(LifecycleTest, TheEndOfTheEngineAnswersEverything) {
  auto world = std::make_unique<FakeWorld>(FakeWorld::Options{});
  world->Folder("slow", 5);
  world->loader.folders[FakeWorld::PathOf("slow")].hangs = true;
  const auto load = world->StartLoad("slow");
  const auto waiting = world->Generate("slow", 4, 4);
  const auto running = world->Generate("", 4, 400);
  world->Turn();
  world->core.End();
  EXPECT_TRUE(absl::IsUnavailable((*load)->status()));
  EXPECT_TRUE(absl::IsUnavailable(waiting->answer().finish.status));
  EXPECT_EQ(running->answer().finish.reason, FinishReason::kAbort);
}

}  // namespace
}  // namespace lorad
