#include "scheduler/wanted_versions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_world.h"

namespace lorad {
namespace {

using ::testing::ElementsAre;

// One behind the other: what has no room for itself beside those that follow is evicted.
struct Loaded {
  std::string name;
  int64_t pages;
};
void LoadAll(const std::vector<Loaded>& adapters, FakeWorld* world) {
  for (const Loaded& each : adapters) {
    world->Folder(each.name, std::hash<std::string>()(each.name), each.pages);
    ASSERT_TRUE(world->Load(each.name).ok()) << each.name;
  }
}

std::vector<std::string> NamesOf(const std::vector<WantedVersion>& wanted) {
  std::vector<std::string> names;
  for (const WantedVersion& each : wanted) names.push_back(each.version->name);
  return names;
}

TEST(WantedVersionsTest, RequestsComeInTheirOrderThenPins) {
  FakeWorld world({.total_pages = 8, .config = {.max_sequences = 32}});
  LoadAll({{"pinned", 3}, {"a", 5}, {"c", 5}, {"last", 8}}, &world);
  const auto pin = world.Pin("pinned", true);
  const Request first = world.MakeRequest("c", 8, 4);
  ASSERT_TRUE(world.Submit(first).ok());
  world.Generate("a", 8, 4);
  world.Generate("c", 8, 4);
  world.Turn();

  const SchedulerState& state = world.core.state();
  const std::vector<WantedVersion> wanted = WantedVersions(state);
  ASSERT_THAT(NamesOf(wanted), ElementsAre("c", "a", "pinned")) << "each once, where its first request stands";
  EXPECT_EQ(wanted[0].first->request->id, first.id);
  EXPECT_EQ(wanted[2].first, nullptr);
  EXPECT_FALSE(IsCommanded(*wanted[0].version));
  EXPECT_TRUE(IsCommanded(*wanted[2].version));
  EXPECT_EQ(ReadinessOf(*wanted[0].first), AdapterReadiness::kReading);
  EXPECT_EQ(PagesToPlace(wanted[2], state), 3) << "no request waits for it: its own pages alone";
  EXPECT_EQ(AdaptersAhead(state), 32 + 8);
}

TEST(WantedVersionsTest, BesideOthersThatRunAnAdapterIsPlacedWithRoomForItsRequest) {
  FakeWorld world({.total_pages = 64});
  LoadAll({{"a", 5}, {"b", 3}}, &world);
  const Request running = world.MakeRequest("a", 8, 100);
  ASSERT_TRUE(world.Submit(running).ok());
  world.Turn();
  ASSERT_FALSE(world.core.state().running.empty());

  const SchedulerState& state = world.core.state();
  Sequence waits;
  waits.tokens.resize(2 * kKvBlockTokens + 1);
  AdapterVersion* const b = state.adapters.Current("b");
  b->phase = WantedPhase::kStaged;
  EXPECT_EQ(PagesToPlace({.version = b, .first = &waits}, state), b->pages + 3 + WatermarkPages(state));
  EXPECT_EQ(PagesToPlace({.version = b, .first = nullptr}, state), b->pages);
  b->phase = WantedPhase::kResident;
}

TEST(WantedVersionsTest, AfterAReadThatHangsNoSeatIsKeptForAMinute) {
  FakeWorld world({.total_pages = 8, .config = {.hanging_read_us = 5'000'000}});
  world.Folder("a", 1);
  const auto answer = world.StartLoad("a");
  world.Turn();
  EXPECT_TRUE(MayKeepSeat(world.core.state()));
  world.clock.Advance(6'000'000);
  world.Turn();
  EXPECT_FALSE(MayKeepSeat(world.core.state()));
  world.clock.Advance(61'000'000);
  EXPECT_TRUE(MayKeepSeat(world.core.state()));
}

}  // namespace
}  // namespace lorad
