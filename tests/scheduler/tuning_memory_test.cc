// Pages that training holds of what serving uses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tests/support/chunked_memory.h"
#include "tests/support/fake_world.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

// What training holds, and the answers it got.
struct FakeTuning {
  explicit FakeTuning(FakeWorld* in) : world(in) {}
  absl::Status Hold(int64_t pages, int64_t kept_pages = 0) {
    std::optional<absl::Status> answer;
    world->inbox
        .PutAdapter(TuningMemoryCommand{.bytes = pages * world->pages->page_bytes(),
                                        .kept_bytes = kept_pages * world->pages->page_bytes(),
                                        .reply = [&](absl::Status status) { answer = std::move(status); },
                                        .give_back = [this] { ++asked; }})
        .IgnoreError();
    while (!answer.has_value()) world->Turn();
    return *answer;
  }
  FakeWorld* world;
  int asked = 0;
};

TEST(TuningMemoryTest, TrainingHoldsPagesAndGivesThemBackWhenARequestCannotGoOn) {
  FakeWorld world({.total_pages = 16});
  FakeTuning tuning(&world);
  ASSERT_TRUE(tuning.Hold(12).ok());
  EXPECT_EQ(world.pages->free_pages(), 4);
  EXPECT_EQ(world.core.snapshot()->tuning_pages, 12);

  const auto small = world.Generate("", kKvBlockTokens, 2);  // fits beside it
  world.Settle();
  EXPECT_EQ(small->answer().tokens.size(), 2u);
  EXPECT_EQ(tuning.asked, 0);

  const auto large = world.Generate("", 10 * kKvBlockTokens, 2);  // does not
  for (int i = 0; i < 5; ++i) world.Turn();
  EXPECT_EQ(tuning.asked, 1);  // once, and the request waits
  EXPECT_EQ(large->answer().events, 0);
  ASSERT_TRUE(tuning.Hold(0).ok());
  world.Settle();
  EXPECT_EQ(large->answer().tokens.size(), 2u);
  EXPECT_EQ(world.pages->free_pages() + world.core.state().prefix_cache->idle_pages(), 16);
}

TEST(TuningMemoryTest, ARequestDoesNotWaitForWhatTrainingKeeps) {
  FakeWorld world({.total_pages = 16});
  FakeTuning tuning(&world);
  ASSERT_TRUE(tuning.Hold(14, /*kept_pages=*/12).ok());
  const auto large = world.Generate("", 10 * kKvBlockTokens, 2);
  for (int i = 0; i < 5; ++i) world.Turn();
  EXPECT_EQ(tuning.asked, 1);  // for the two that it can give
  EXPECT_EQ(large->answer().events, 0);
  ASSERT_TRUE(tuning.Hold(12, /*kept_pages=*/12).ok());
  world.Settle();
  EXPECT_EQ(tuning.asked, 1);
  EXPECT_EQ(large->answer().finishes, 1);  // was told that there is no room
  EXPECT_EQ(large->answer().tokens.size(), 0u);
}

TEST(TuningMemoryTest, TrainingTakesWhatIsIdleAndIsRefusedWhatIsInUse) {
  FakeWorld world({.total_pages = 16});
  FakeTuning tuning(&world);
  world.Folder("a", 1, 5);
  ASSERT_TRUE(world.Load("a").ok());
  EXPECT_EQ(tuning.Hold(17).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(tuning.Hold(14).ok());
  EXPECT_EQ(world.pool.resident_count(), 0);  // was idle
  EXPECT_TRUE(tuning.Hold(2).ok());
  const auto running = world.Generate("", 9 * kKvBlockTokens, 20);
  while (running->answer().events == 0) ASSERT_TRUE(world.Turn());
  EXPECT_EQ(tuning.Hold(14).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(world.pages->withheld_pages(), 2);  // as before
  world.Settle();
}

// A world on a device that takes back chunks of two pages.
struct ChunkedWorld {
  explicit ChunkedWorld(int64_t total_pages) {
    auto owned = std::make_unique<ChunkedMemory>(total_pages * FakeWorld::kPageBytes, 2 * FakeWorld::kPageBytes);
    memory = owned.get();
    world.emplace(FakeWorld::Options{.total_pages = total_pages}, std::move(owned));
  }
  int64_t released_pages() const { return memory->released_bytes() / FakeWorld::kPageBytes; }
  ChunkedMemory* memory;
  std::optional<FakeWorld> world;
};

TEST(TuningMemoryTest, RequestsGoOnWithTheRightTokensWhenPagesOfTheirsAreTaken) {
  ChunkedWorld chunked(/*total_pages=*/32);
  FakeWorld& world = *chunked.world;
  FakeTuning tuning(&world);
  for (const char* const name : {"a", "b"}) world.Folder(name, name[0] - 'a' + 1, 5);
  ASSERT_TRUE(world.Load("a").ok());
  ASSERT_TRUE(world.Load("b", /*pinned=*/true).ok());
  std::vector<Request> requests;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(world.MakeRequest(i % 2 == 0 ? "a" : "", 10, 40));
    ASSERT_TRUE(world.Submit(requests.back()).ok());
  }
  for (int i = 0; i < 4; ++i) world.Turn();
  EXPECT_FALSE(world.pages->IsFree(31));
  ASSERT_TRUE(tuning.Hold(9).ok());  // where the adapters lie
  EXPECT_EQ(chunked.released_pages(), 8);
  for (int i = 0; i < 3; ++i) world.Turn();
  ASSERT_TRUE(tuning.Hold(0).ok());
  EXPECT_EQ(chunked.released_pages(), 0);
  world.Settle();
  for (const Request& request : requests) {
    EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens,
              FakeGenerate(request.prompt_ids, request.adapter.empty() ? 0 : 1, request.sampling));
  }
}

// More chunks than a turn gives back: steps run in between, and training hears of it at the end.
TEST(TuningMemoryTest, MuchIsTakenInTurnsBetweenStepsAndComesBackSo) {
  constexpr int64_t kPages = 160, kHeld = 130;
  ChunkedWorld chunked(kPages);
  FakeWorld& world = *chunked.world;
  const auto request = world.Generate("", 10, 30);
  while (request->answer().events == 0) ASSERT_TRUE(world.Turn());
  std::optional<absl::Status> answer;
  const auto hold = [&](int64_t pages) {
    answer.reset();
    ASSERT_THAT(world.inbox.PutAdapter(TuningMemoryCommand{.bytes = pages * world.pages->page_bytes(),
                                                           .kept_bytes = 0,
                                                           .reply = [&](absl::Status status) { answer = status; },
                                                           .give_back = [] {}}),
                IsOk());
  };
  hold(kHeld);
  int64_t turns = 0, released = 0;
  const int events = request->answer().events;
  while (!answer.has_value()) {
    ASSERT_TRUE(world.Turn());
    EXPECT_LE(chunked.released_pages() - released, 2 * 16);
    released = chunked.released_pages();
    EXPECT_EQ(world.pages->withheld_pages(), kHeld);  // from the first turn on
    ++turns;
  }
  EXPECT_THAT(*answer, IsOk());
  EXPECT_GE(turns, 4);
  EXPECT_GE(request->answer().events - events, turns - 1);
  EXPECT_EQ(released, kHeld);
  hold(0);
  ASSERT_TRUE(world.Turn());
  EXPECT_TRUE(answer.has_value());  // what comes back is not training's business
  EXPECT_EQ(chunked.released_pages(), kHeld - 2 * 16);
  world.Settle();
  EXPECT_EQ(chunked.released_pages(), 0);
  EXPECT_EQ(request->answer().tokens.size(), 30u);
}

TEST(TuningMemoryTest, WhoeverWaitsForMemoryIsAnsweredWhenTheDaemonEndsOrMemoryIsAskedForAnew) {
  ChunkedWorld chunked(/*total_pages=*/160);
  FakeWorld& world = *chunked.world;
  std::vector<absl::Status> answers;
  const auto hold = [&](int64_t pages) {
    ASSERT_THAT(
        world.inbox.PutAdapter(TuningMemoryCommand{.bytes = pages * world.pages->page_bytes(),
                                                   .kept_bytes = 0,
                                                   .reply = [&](absl::Status status) { answers.push_back(status); },
                                                   .give_back = [] {}}),
        IsOk());
    ASSERT_TRUE(world.Turn());
  };
  hold(130);
  EXPECT_GT(chunked.released_pages(), 0);
  EXPECT_TRUE(answers.empty());
  hold(140);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_TRUE(absl::IsResourceExhausted(answers[0])) << answers[0];
  world.core.End();
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_TRUE(absl::IsUnavailable(answers[1])) << answers[1];
  EXPECT_EQ(world.pages->free_pages() + chunked.released_pages(), 160);
}

TEST(TuningMemoryTest, ARequestWaitsForPagesThatTheDeviceDoesNotGiveBackAtOnce) {
  ChunkedWorld chunked(/*total_pages=*/16);
  FakeWorld& world = *chunked.world;
  FakeTuning tuning(&world);
  ASSERT_TRUE(tuning.Hold(12).ok());
  const auto large = world.Generate("", 10 * kKvBlockTokens, 2);
  for (int i = 0; i < 3; ++i) world.Turn();
  EXPECT_EQ(tuning.asked, 1);
  chunked.memory->device_chunks = 1;
  ASSERT_TRUE(tuning.Hold(0).ok());
  EXPECT_EQ(world.pages->withheld_pages(), 10);
  for (int i = 0; i < 3; ++i) world.Turn();
  EXPECT_EQ(large->answer().events, 0);
  EXPECT_EQ(tuning.asked, 1);  // it has given all

  chunked.memory->device_chunks = -1;
  const int64_t due_us = world.core.WaitBudgetUs();
  ASSERT_GE(due_us, 0);  // the engine wakes up for it
  world.clock.Advance(due_us);
  EXPECT_TRUE(world.Turn());
  EXPECT_EQ(world.pages->withheld_pages(), 0);
  world.Settle();
  EXPECT_EQ(large->answer().tokens.size(), 2u);
  EXPECT_EQ(world.core.WaitBudgetUs(), -1);
}

TEST(TuningMemoryTest, ARequestIsToldWhenTheDeviceKeepsItsPages) {
  ChunkedWorld chunked(/*total_pages=*/16);
  FakeWorld& world = *chunked.world;
  FakeTuning tuning(&world);
  ASSERT_TRUE(tuning.Hold(12).ok());
  chunked.memory->device_chunks = 0;
  ASSERT_TRUE(tuning.Hold(0).ok());
  const auto large = world.Generate("", 10 * kKvBlockTokens, 2);
  const auto small = world.Generate("", kKvBlockTokens, 2);
  for (int i = 0; i < 50 && large->answer().finishes == 0; ++i) {
    world.Turn();
    world.clock.Advance(1'000'000);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(large->answer().finish.status));
  world.Settle();
  EXPECT_EQ(small->answer().tokens.size(), 2u);
}

}  // namespace
}  // namespace lorad
