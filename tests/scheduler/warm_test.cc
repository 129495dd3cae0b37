// Adapters that the host keeps packed: EngineConfig::host_adapter_bytes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/fake_world.h"

namespace lorad {
namespace {

constexpr int64_t kPage = FakeWorld::kPageBytes;

FakeWorld::Options Keeping(int64_t pages, int64_t total_pages = 8) {
  return {.total_pages = total_pages, .config = {.host_adapter_bytes = pages * kPage}};
}

std::vector<int32_t> Alone(const Request& request, uint64_t content) {
  return FakeGenerate(request.prompt_ids, content, request.sampling);
}

// Jobs that read.
int64_t Reads(const FakeWorld& world) {
  return std::count_if(world.loader.jobs.begin(), world.loader.jobs.end(),
                       [](const FakeLoader::Job& job) { return !job.pack; });
}

Request Submitted(const std::string& adapter, FakeWorld* world) {
  Request request = world->MakeRequest(adapter, 8, 20);
  EXPECT_TRUE(world->Submit(request).ok());
  return request;
}

// "a" (1) and "b" (2), of which the pool has room for one; "a" was loaded first and evicted for "b".
void LoadBoth(FakeWorld* world) {
  world->Folder("a", 1, 5);
  world->Folder("b", 2, 5);
  ASSERT_TRUE(world->Load("a").ok());
  ASSERT_TRUE(world->Load("b").ok());
  ASSERT_EQ(world->Listed("a")->state, AdapterState::kHost);
}

TEST(WarmTest, OneThatIsKeptIsPlacedInTheTurnThatWantsItAndNotRead) {
  FakeWorld world(Keeping(10));
  LoadBoth(&world);
  EXPECT_TRUE(world.Listed("a")->warm);
  EXPECT_TRUE(world.Listed("b")->warm);
  EXPECT_EQ(world.core.snapshot()->warm_adapters, 2);
  EXPECT_EQ(world.core.snapshot()->warm_bytes, 10 * kPage);
  EXPECT_EQ(world.observer.warm_loaded, 0);
  world.Folder("a", 99, 5);  // what the folder has become since is nothing to it
  const Request request = Submitted("a", &world);
  world.Turn();
  ASSERT_EQ(world.loader.jobs.size(), 1u);
  EXPECT_NE(world.loader.jobs[0].packed, nullptr);
  EXPECT_FALSE(world.pool.IsResident(world.loader.jobs[0].id));
  world.AnswerLoader();
  world.Turn();
  EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens.size(), 1u);  // it began as soon as it was there
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens, Alone(request, 1));
  EXPECT_EQ(world.observer.warm_loaded, 1);
  EXPECT_EQ(world.observer.loaded, 3);
}

TEST(WarmTest, TwoThatTakeTurnsInThePoolAreReadOnce) {
  FakeWorld world(Keeping(10));
  LoadBoth(&world);
  for (int i = 0; i < 20; ++i) {
    const Request request = Submitted(i % 2 == 0 ? "a" : "b", &world);
    for (int turn = 0; turn < 100 && !FakeWorld::SinkOf(request)->finished(); ++turn) {
      EXPECT_EQ(Reads(world), 0);
      world.AnswerLoader();
      world.Turn();
    }
    EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens, Alone(request, i % 2 == 0 ? 1 : 2));
  }
  EXPECT_EQ(world.observer.warm_loaded, 20);
}

TEST(WarmTest, WhatIsKeptNoMoreOrWasTooLargeIsReadAgain) {
  FakeWorld world(Keeping(5));  // of two adapters the last to be packed
  LoadBoth(&world);
  EXPECT_FALSE(world.Listed("a")->warm);
  EXPECT_TRUE(world.Listed("b")->warm);
  EXPECT_EQ(world.core.snapshot()->warm_bytes, 5 * kPage);
  const Request request = Submitted("a", &world);
  world.Turn();
  EXPECT_EQ(Reads(world), 1);
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens, Alone(request, 1));
  world.Folder("large", 3, 6);
  ASSERT_TRUE(world.Load("large").ok());
  EXPECT_FALSE(world.Listed("large")->warm);
  EXPECT_TRUE(world.Listed("a")->warm);  // nobody went for it
}

TEST(WarmTest, WithoutALimitNothingIsKept) {
  FakeWorld world(Keeping(0));
  LoadBoth(&world);
  EXPECT_FALSE(world.Listed("b")->warm);
  const Request request = Submitted("a", &world);
  world.Turn();
  EXPECT_EQ(Reads(world), 1);
  world.Settle();
  EXPECT_EQ(world.observer.warm_loaded, 0);
}

TEST(WarmTest, AnUnloadGivesWhatIsKeptBackAtOnce) {
  FakeWorld world(Keeping(10));
  LoadBoth(&world);
  const auto unload = world.Unload("a");
  world.Turn();
  ASSERT_TRUE(unload->has_value());
  EXPECT_EQ(world.core.state().warm.bytes(), 5 * kPage);
  EXPECT_EQ(world.core.snapshot()->warm_bytes, 5 * kPage);

  // While it is copied: the pages are the packer's, and so is what it copies from.
  world.Folder("c", 3, 5);
  ASSERT_TRUE(world.Load("c").ok());
  const Request request = Submitted("b", &world);
  world.Turn();
  ASSERT_EQ(world.loader.jobs.size(), 1u);
  const std::weak_ptr<const PackedAdapter> watch = world.loader.jobs[0].packed;
  ASSERT_FALSE(watch.expired());
  world.inbox.Put(CancelCommand{.request = request.id});
  const auto other = world.Unload("b");
  world.Turn();
  EXPECT_FALSE(other->has_value());
  world.Settle();
  EXPECT_TRUE(other->has_value() && (*other)->ok());
  EXPECT_TRUE(watch.expired());
  EXPECT_EQ(world.core.state().warm.bytes(), 5 * kPage);  // c
}

TEST(WarmTest, WhatReplacesAnAdapterIsNeverServedFromWhatWasKeptOfTheOther) {
  FakeWorld world(Keeping(15));
  LoadBoth(&world);
  world.Folder("a", 7, 5);
  ASSERT_TRUE(world.Load("a", /*pinned=*/false, /*replace=*/true).ok());  // evicts b
  EXPECT_EQ(world.core.snapshot()->warm_adapters, 2);
  const Request of_b = Submitted("b", &world);
  world.Settle();
  const Request of_a = Submitted("a", &world);
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(of_b)->answer().tokens, Alone(of_b, 2));
  EXPECT_EQ(FakeWorld::SinkOf(of_a)->answer().tokens, Alone(of_a, 7));
  EXPECT_EQ(world.observer.warm_loaded, 2);
}

// Requests that were accepted finish on the version that was replaced, wherever its folder has gone meanwhile.
TEST(WarmTest, AReplacedVersionIsKeptForThoseWhoWaitForItAndNoLonger) {
  FakeWorld world(Keeping(15));
  LoadBoth(&world);
  const Request of_b = Submitted("b", &world);
  world.Turn();
  const Request of_a = Submitted("a", &world);  // waits for the room that b has
  world.Turn();
  world.Folder("a", 7, 5);
  const auto replaced = world.StartLoad("a", /*pinned=*/false, /*replace=*/true);
  world.Turn();
  world.AnswerLoader();
  world.Turn();
  ASSERT_TRUE(replaced->has_value());
  EXPECT_EQ(world.core.state().warm.count(), 2);
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(of_b)->answer().tokens, Alone(of_b, 2));
  EXPECT_EQ(FakeWorld::SinkOf(of_a)->answer().tokens, Alone(of_a, 1));
  EXPECT_EQ(world.core.state().adapters.versions().size(), 2u);
  EXPECT_EQ(world.core.state().warm.count(), 1);  // b: the new one was never packed, the old one is gone
}

TEST(WarmTest, OneThatIsPushedOutInTheTurnThatPlacesItIsPlacedAllTheSame) {
  FakeWorld world(Keeping(5, /*total_pages=*/16));
  world.Folder("a", 1, 5);
  world.Folder("wide", 2, 12);  // too large to be kept
  world.Folder("c", 3, 5);
  ASSERT_TRUE(world.Load("a").ok());
  ASSERT_TRUE(world.Load("wide").ok());
  ASSERT_TRUE(world.Listed("a")->warm);
  ASSERT_EQ(world.Listed("a")->state, AdapterState::kHost);
  const auto busy = world.Generate("wide", 8, 8);
  world.Turn();
  const auto load = world.StartLoad("c");
  world.Turn();
  world.AnswerLoader();  // it is read, and nobody but the request that comes now wants it
  const Request of_c = Submitted("c", &world);
  const Request of_a = Submitted("a", &world);
  while (world.loader.jobs.empty()) ASSERT_TRUE(world.Turn());
  ASSERT_TRUE(busy->finished());
  ASSERT_EQ(world.loader.jobs.size(), 2u);  // both in one turn
  EXPECT_NE(world.loader.jobs[0].keep, nullptr);
  EXPECT_NE(world.loader.jobs[1].packed, nullptr);
  EXPECT_FALSE(world.Listed("a")->warm);
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(of_c)->answer().tokens, Alone(of_c, 3));
  EXPECT_EQ(FakeWorld::SinkOf(of_a)->answer().tokens, Alone(of_a, 1));
}

TEST(WarmTest, ACopyThatFailsEndsWhoWaitsAndTheNextRequestTriesAgain) {
  FakeWorld world(Keeping(10));
  LoadBoth(&world);
  const Request failed = Submitted("a", &world);
  world.Turn();
  ASSERT_EQ(world.loader.jobs.size(), 1u);
  world.inbox.Put(LoaderCommand{
      AdapterLoadFailed{.id = world.loader.jobs[0].id, .status = absl::ResourceExhaustedError("pinned memory")}});
  world.loader.jobs.clear();
  world.Turn();
  EXPECT_TRUE(absl::IsResourceExhausted(FakeWorld::SinkOf(failed)->answer().finish.status));
  EXPECT_EQ(world.Listed("a")->error, "pinned memory");
  EXPECT_EQ(world.unused_pages(), world.pages->total_pages());
  const Request again = Submitted("a", &world);
  world.Turn();
  EXPECT_EQ(Reads(world), 0);
  world.Settle();
  EXPECT_EQ(FakeWorld::SinkOf(again)->answer().tokens, Alone(again, 1));
  EXPECT_EQ(world.Listed("a")->error, "");
}

TEST(WarmTest, APackingThatFailsKeepsNothing) {
  FakeWorld world(Keeping(10));
  world.Folder("a", 1, 5);
  const auto load = world.StartLoad("a");
  world.Turn();
  world.AnswerLoader();
  world.Turn();
  ASSERT_EQ(world.loader.jobs.size(), 1u);
  EXPECT_EQ(world.core.state().warm.count(), 1);
  world.inbox.Put(LoaderCommand{
      AdapterLoadFailed{.id = world.loader.jobs[0].id, .status = absl::ResourceExhaustedError("pinned memory")}});
  world.loader.jobs.clear();
  world.Turn();
  EXPECT_FALSE((*load)->ok());
  EXPECT_EQ(world.core.state().warm.count(), 0);
}

TEST(WarmTest, ACopyUnderWayEndsWellWhoeverWantedIt) {
  for (const char* how : {"cancel", "deadline", "drain", "end"}) {
    SCOPED_TRACE(how);
    FakeWorld world(Keeping(10));
    LoadBoth(&world);
    Request request = world.MakeRequest("a", 8, 20);
    request.deadline_us = world.clock.NowUs() + 1'000'000;
    ASSERT_TRUE(world.Submit(request).ok());
    world.Turn();
    ASSERT_EQ(world.loader.jobs.size(), 1u);
    const std::string what = how;
    if (what == "cancel") world.inbox.Put(CancelCommand{.request = request.id});
    if (what == "deadline") world.clock.Advance(2'000'000);
    if (what == "drain") world.inbox.Put(DrainCommand{.deadline_us = world.clock.NowUs() + 60'000'000});
    if (what == "end") world.core.End();
    world.Turn();
    const bool goes_on = what == "drain";
    EXPECT_EQ(FakeWorld::SinkOf(request)->finished(), !goes_on);
    world.Settle();
    EXPECT_EQ(FakeWorld::SinkOf(request)->answer().finishes, 1);
    EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens.size(), goes_on ? 20u : 0u);
    EXPECT_EQ(world.Listed("a")->state, AdapterState::kResident);
  }
}

TEST(WarmTest, APinIsAnsweredWhenItsCopyIsThere) {
  FakeWorld world({.total_pages = 16, .config = {.host_adapter_bytes = 64 * kPage, .max_context_tokens = 64}});
  for (const char* name : {"a", "b", "c"}) {
    world.Folder(name, 1, 6);
    ASSERT_TRUE(world.Load(name).ok());
  }
  ASSERT_EQ(world.Listed("a")->state, AdapterState::kHost);
  const auto pin = world.Pin("a", true);
  world.Turn();
  EXPECT_EQ(Reads(world), 0);
  world.AnswerLoader();
  world.Turn();
  ASSERT_TRUE(pin->has_value());
  EXPECT_EQ((*pin)->value().state, AdapterState::kResident);
}

}  // namespace
}  // namespace lorad
