#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_world.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using ::testing::HasSubstr;

TEST(LimitsTest, AnAdaptersShareOfTheQueueIsRefusedBeyondWithTheNumbers) {
  FakeWorld world({.config = {.max_sequences = 1, .max_waiting_per_adapter = 2}});
  world.Folder("a", 1);
  ASSERT_TRUE(world.Load("a").ok());
  const auto running = world.Generate("a", 4, 30);
  world.Turn();  // begins, and waits no more
  const auto first = world.Generate("a", 4, 2);
  const auto second = world.Generate("a", 4, 2);
  const auto third = world.Generate("a", 4, 2);
  const auto base = world.Generate("", 4, 2);
  world.Turn();
  EXPECT_EQ(third->answer().finish.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(third->answer().finish.status.message()),
              HasSubstr("sequences waiting for adapter a: 2; wanted: 1; limit: 2"));
  world.Settle();
  for (const auto& sink : {running, first, second, base}) {
    EXPECT_EQ(sink->answer().finish.reason, FinishReason::kLength);
  }
}

TEST(LimitsTest, EachOfNTakesAPlaceInTheAdaptersShare) {
  FakeWorld world({.config = {.max_waiting_per_adapter = 2}});
  world.Folder("a", 1);
  ASSERT_TRUE(world.Load("a").ok());
  Request request = world.MakeRequest("a", 4, 2);
  request.n = 3;
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(sink->answer(i).finish.status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(sink->answer(i).finishes, 1);
  }
  EXPECT_EQ(world.inbox.queued_sequences(), 0);
}

TEST(LimitsTest, OneAdapterAtItsRunningLimitDoesNotHoldBackOthers) {
  FakeWorld world({.config = {.max_sequences = 8, .max_running_per_adapter = 2}});
  world.Folder("greedy", 1);
  world.Folder("modest", 2);
  ASSERT_TRUE(world.Load("greedy").ok());
  ASSERT_TRUE(world.Load("modest").ok());
  for (int i = 0; i < 6; ++i) world.Generate("greedy", 4, 20);
  const auto modest = world.Generate("modest", 4, 20);
  std::vector<std::shared_ptr<RecordingSink>> bases;
  for (int i = 0; i < 4; ++i) bases.push_back(world.Generate("", 4, 20));
  world.Turn();
  EXPECT_EQ(world.Listed("greedy")->running_requests, 2);
  EXPECT_EQ(world.Listed("greedy")->waiting_requests, 4);
  EXPECT_EQ(world.Listed("modest")->running_requests, 1);
  EXPECT_EQ(world.core.snapshot()->running_sequences, 7);  // the base has no limit
  world.Settle();
  EXPECT_EQ(world.core.snapshot()->running_sequences + world.core.snapshot()->waiting_sequences, 0);
}

TEST(LimitsTest, ReplacingAnAdapterDoesNotLiftItsLimit) {
  FakeWorld world({.config = {.max_running_per_adapter = 1}});
  world.Folder("a", 1);
  ASSERT_TRUE(world.Load("a").ok());
  world.Generate("a", 4, 40);
  world.Turn();
  world.Folder("a", 2);
  ASSERT_TRUE(world.Load("a", /*pinned=*/false, /*replace=*/true).ok());
  const auto of_the_new = world.Generate("a", 4, 2);
  world.Turn();
  EXPECT_EQ(of_the_new->answer().events, 0);
  world.Settle();
  EXPECT_EQ(of_the_new->answer().finish.reason, FinishReason::kLength);
}

// Whose account runs as many as it may does not begin soon, however early it came: others are read ahead instead.
TEST(LimitsTest, ThoseAtTheirLimitDoNotKeepAnotherAdapterFromBeingRead) {
  FakeWorld world({.config = {.max_sequences = 12, .max_running_per_adapter = 1}});
  for (int i = 0; i < 11; ++i) {
    const std::string name = absl::StrCat("busy-", i);
    world.Folder(name, static_cast<uint64_t>(i) + 2);
    ASSERT_TRUE(world.Load(name).ok());
    world.Generate(name, 4, 1000);
    world.Turn();
    world.Folder(name, static_cast<uint64_t>(i) + 20);
    ASSERT_TRUE(world.Load(name, /*pinned=*/false, /*replace=*/true).ok());
    world.Generate(name, 4, 5);
  }
  world.Folder("cold", 1);
  Request request = world.MakeRequest("cold", 4, 5);
  const auto cold = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request), FakeWorld::PathOf("cold")).ok());
  for (int i = 0; i < 20; ++i) {
    world.AnswerLoader();
    world.Turn();
  }
  EXPECT_TRUE(cold->finished());
}

// One seat, an adapter that is being read, and a stream of base requests that never ends.
class OvertakingTest : public testing::Test {
 protected:
  OvertakingTest() : world_({.config = {.max_sequences = 1, .max_overtakes = 3}}) {
    world_.Folder("a", 1);
    EXPECT_TRUE(world_.Load("a").ok());
    world_.Folder("b", 2);
    world_.loader.folders[FakeWorld::PathOf("b")].hangs = true;
  }
  // Each base request runs for one turn.
  std::shared_ptr<RecordingSink> BaseTurn() {
    auto sink = world_.Generate("", 4, 1);
    world_.AnswerLoader();
    world_.Turn();
    return sink;
  }
  FakeWorld world_;
};

TEST_F(OvertakingTest, SomePassWhileItIsReadThenTheSeatIsKeptAndItBeginsOnceRead) {
  Request request = world_.MakeRequest("b", 4, 5);
  const auto cold = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world_.Submit(std::move(request), FakeWorld::PathOf("b")).ok());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(BaseTurn()->finished()) << i;
  const auto kept_back = BaseTurn();
  EXPECT_FALSE(kept_back->finished());
  world_.loader.folders[FakeWorld::PathOf("b")].hangs = false;
  for (int i = 0; i < 6 && cold->answer().events == 0; ++i) BaseTurn();
  EXPECT_GT(cold->answer().events, 0);
  EXPECT_FALSE(kept_back->finished());
  world_.Settle();
  EXPECT_EQ(cold->answer().finish.reason, FinishReason::kLength);
  EXPECT_TRUE(kept_back->finished());
}

TEST_F(OvertakingTest, AReadThatHangsKeepsNoSeat) {
  Request request = world_.MakeRequest("b", 4, 5);
  ASSERT_TRUE(world_.Submit(std::move(request), FakeWorld::PathOf("b")).ok());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(BaseTurn()->finished()) << i;
  EXPECT_FALSE(BaseTurn()->finished());
  world_.clock.Advance(world_.core.state().config.hanging_read_us);
  world_.Settle();
  EXPECT_EQ(world_.core.snapshot()->waiting_sequences, 1);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(BaseTurn()->finished()) << i;
}

TEST_F(OvertakingTest, AfterAReadHungOthersThatAreReadKeepNoSeatForAWhile) {
  Request first = world_.MakeRequest("b", 4, 5);
  ASSERT_TRUE(world_.Submit(std::move(first), FakeWorld::PathOf("b")).ok());
  world_.Turn();
  world_.clock.Advance(world_.core.state().config.hanging_read_us);
  world_.Turn();
  world_.Folder("c", 3);
  world_.loader.folders[FakeWorld::PathOf("c")].hangs = true;
  Request second = world_.MakeRequest("c", 4, 5);
  ASSERT_TRUE(world_.Submit(std::move(second), FakeWorld::PathOf("c")).ok());
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(BaseTurn()->finished()) << i;
}

}  // namespace
}  // namespace lorad
