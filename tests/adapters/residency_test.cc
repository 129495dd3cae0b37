#include "adapters/residency.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>

namespace lorad {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

WantedAdapter OnDisk(AdapterId id, int64_t pages) { return {.id = id, .phase = WantedPhase::kOnDisk, .pages = pages}; }
WantedAdapter Staged(AdapterId id, int64_t pages) { return {.id = id, .phase = WantedPhase::kStaged, .pages = pages}; }
WantedAdapter Resident(AdapterId id) { return {.id = id, .phase = WantedPhase::kResident}; }

TEST(ResidencyTest, PacksIntoFreePagesWithoutEvicting) {
  const ResidencyPlan plan =
      PlanResidency({.wanted = {Staged(1, 3)}, .idle = {{.id = 9, .pages = 5}}, .free_pages = 3});
  EXPECT_THAT(plan.pack, ElementsAre(1));
  EXPECT_THAT(plan.evict, IsEmpty());
}

WantedAdapter Warm(AdapterId id, int64_t pages) {
  return {.id = id, .phase = WantedPhase::kOnDisk, .pages = pages, .warm = true};
}

TEST(ResidencyTest, AWarmOneIsPackedAtOnceAsIfItWereStaged) {
  const ResidencyPlan plan = PlanResidency({.wanted = {Warm(1, 3)}, .idle = {{.id = 9, .pages = 5}}});
  EXPECT_THAT(plan.read, IsEmpty());
  EXPECT_THAT(plan.evict, ElementsAre(9));
  EXPECT_THAT(plan.pack, ElementsAre(1));
}

TEST(ResidencyTest, AWarmOneWithoutRoomIsNotReadAndTakesNoPlaceOfAnImage) {
  ResidencyInput input{.free_pages = 5, .max_staged = 1, .max_parked = 1};
  for (AdapterId id = 1; id <= 4; ++id) input.wanted.push_back(Warm(id, 6));
  input.wanted.push_back(OnDisk(5, 2));
  input.wanted.push_back(Warm(6, 2));
  const ResidencyPlan plan = PlanResidency(input);
  EXPECT_THAT(plan.read, ElementsAre(5));
  EXPECT_THAT(plan.pack, ElementsAre(6));
  input.wanted[0].overtakable = false;
  EXPECT_THAT(PlanResidency(input).pack, IsEmpty());
}

TEST(ResidencyTest, AWarmOneTooFarAheadIsLeftWhereItIs) {
  const ResidencyPlan plan = PlanResidency({.wanted = {Warm(1, 1), Warm(2, 1)}, .free_pages = 9, .max_ahead = 1});
  EXPECT_THAT(plan.pack, ElementsAre(1));
}

TEST(ResidencyTest, EvictsTheOldestAndNoMoreThanNeeded) {
  const ResidencyPlan plan = PlanResidency(
      {.wanted = {Staged(1, 3)}, .idle = {{.id = 7, .pages = 2}, {.id = 8, .pages = 2}, {.id = 9, .pages = 2}}});
  EXPECT_THAT(plan.pack, ElementsAre(1));
  EXPECT_THAT(plan.evict, ElementsAre(7, 8));
}

TEST(ResidencyTest, AWantedIdleAdapterIsEvictedAfterAnUnwantedYoungerOne) {
  const ResidencyPlan plan =
      PlanResidency({.wanted = {Staged(1, 2), Resident(7)}, .idle = {{.id = 7, .pages = 2}, {.id = 8, .pages = 2}}});
  EXPECT_THAT(plan.evict, ElementsAre(8));
}

TEST(ResidencyTest, AnAdapterWantedEarlierIsNeverEvictedForALaterOne) {
  const ResidencyPlan plan = PlanResidency({.wanted = {Resident(7), Staged(1, 2)}, .idle = {{.id = 7, .pages = 2}}});
  EXPECT_THAT(plan.evict, IsEmpty());
  EXPECT_THAT(plan.pack, IsEmpty());
}

TEST(ResidencyTest, TheHeadTakesThePagesOfOneThatIsWantedLater) {
  const ResidencyPlan plan = PlanResidency({.wanted = {Staged(1, 2), Resident(7)}, .idle = {{.id = 7, .pages = 2}}});
  EXPECT_THAT(plan.evict, ElementsAre(7));
  EXPECT_THAT(plan.pack, ElementsAre(1));
}

TEST(ResidencyTest, OneThatDoesNotFitLetsSmallerOnesPassUntilItMayNotBeOvertaken) {
  ResidencyInput input{.wanted = {Staged(1, 10), Staged(2, 2)}, .free_pages = 4};
  EXPECT_THAT(PlanResidency(input).pack, ElementsAre(2));
  input.wanted[0].overtakable = false;
  EXPECT_THAT(PlanResidency(input).pack, IsEmpty());
}

TEST(ResidencyTest, AnAdapterOnItsWayKeepsItsClaimOnFreePages) {
  const WantedAdapter reading{.id = 1, .phase = WantedPhase::kReading, .pages = 3};
  const ResidencyPlan plan = PlanResidency({.wanted = {reading, Staged(2, 2)}, .free_pages = 4});
  EXPECT_THAT(plan.pack, IsEmpty());
}

TEST(ResidencyTest, ReadsAreBoundedByWhatHostMemoryMayHold) {
  const ResidencyPlan plan =
      PlanResidency({.wanted = {OnDisk(1, 0), OnDisk(2, 0), OnDisk(3, 1)}, .free_pages = 9, .max_staged = 2});
  EXPECT_THAT(plan.read, ElementsAre(1, 2));
}

TEST(ResidencyTest, ThoseThatFoundNoRoomDoNotKeepOthersFromBeingRead) {
  ResidencyInput input{.free_pages = 2, .max_staged = 1, .max_parked = 3};
  for (AdapterId id = 1; id <= 2; ++id) input.wanted.push_back(Staged(id, 9));
  input.wanted.push_back(OnDisk(5, 0));
  EXPECT_THAT(PlanResidency(input).read, ElementsAre(5));
  input.wanted.insert(input.wanted.begin(), Staged(3, 9));
  EXPECT_THAT(PlanResidency(input).read, IsEmpty()) << "it may be as large";
  input.wanted.push_back(OnDisk(6, 1));
  EXPECT_THAT(PlanResidency(input).read, ElementsAre(6));
}

TEST(ResidencyTest, DoesNotReadAgainWhatWouldNotFit) {
  const ResidencyPlan plan = PlanResidency({.wanted = {OnDisk(1, 5)}, .free_pages = 4});
  EXPECT_THAT(plan.read, IsEmpty());
}

TEST(ResidencyTest, WhoIsFarBackIsNeitherReadNorPackedYetSparedBeforeThoseThatNobodyWants) {
  ResidencyInput input{.wanted = {OnDisk(1, 1), Staged(2, 1), OnDisk(3, 1), Staged(4, 1), Resident(5)},
                       .idle = {{.id = 5, .pages = 2}, {.id = 9, .pages = 2}},
                       .max_ahead = 2};
  const ResidencyPlan plan = PlanResidency(input);
  EXPECT_THAT(plan.read, ElementsAre(1));
  EXPECT_THAT(plan.pack, ElementsAre(2));
  EXPECT_THAT(plan.evict, ElementsAre(9));
  EXPECT_THAT(plan.keep, IsEmpty());
  input.max_ahead = 5;
  EXPECT_THAT(PlanResidency(input).read, ElementsAre(1, 3));
  EXPECT_THAT(PlanResidency(input).keep, ElementsAre(5));
}

TEST(ResidencyTest, WhatDoesNotFitDoesNotCountAsAhead) {
  const ResidencyInput input{.wanted = {Staged(1, 9), OnDisk(2, 9), OnDisk(3, 1)}, .free_pages = 2, .max_ahead = 1};
  EXPECT_THAT(PlanResidency(input).read, ElementsAre(3));
}

TEST(ResidencyTest, WhoRunsAnywayOrWaitsForAHangingReadDoesNotCountAsAhead) {
  WantedAdapter running = Resident(1);
  running.ahead = false;
  ResidencyInput input{.wanted = {running, OnDisk(2, 1), OnDisk(3, 1)}, .free_pages = 2, .max_ahead = 1};
  EXPECT_THAT(PlanResidency(input).read, ElementsAre(2));
}

TEST(ResidencyTest, OneThatWasOvertakenOftenEnoughIsReadHoweverFarBack) {
  WantedAdapter overtaken = OnDisk(3, 1);
  overtaken.overtakable = false;
  EXPECT_THAT(PlanResidency({.wanted = {Resident(1), overtaken}, .free_pages = 2, .max_ahead = 1}).read,
              ElementsAre(3));
}

TEST(ResidencyTest, ACommandIsCarriedOutHoweverManyWait) {
  WantedAdapter loaded = OnDisk(3, 1);
  loaded.commanded = true;
  const ResidencyInput input{.wanted = {Resident(1), Resident(2), loaded}, .free_pages = 2, .max_ahead = 1};
  EXPECT_THAT(PlanResidency(input).read, ElementsAre(3));
  EXPECT_THAT(PlanResidency(input).keep, ElementsAre(1));
}

// Whatever the input: what is packed fits into what is free and evicted, and nothing is done twice.
TEST(ResidencyTest, NeverPromisesMorePagesThanThereAre) {
  for (int seed = 0; seed < 500; ++seed) {
    std::mt19937 random(seed);
    ResidencyInput input{.free_pages = static_cast<int64_t>(random() % 20)};
    for (AdapterId id = 1; id <= random() % 12; ++id) {
      const auto phase = static_cast<WantedPhase>(random() % 5);
      const auto pages = static_cast<int64_t>(random() % 8 + (phase == WantedPhase::kOnDisk ? 0 : 1));
      input.wanted.push_back({.id = id, .phase = phase, .pages = pages, .overtakable = random() % 4 != 0});
      input.wanted.back().commanded = random() % 8 == 0;
      input.wanted.back().ahead = random() % 8 != 0;
      if (phase == WantedPhase::kResident) input.idle.push_back({.id = id, .pages = pages});
    }
    for (AdapterId id = 101; id <= 100 + random() % 5; ++id) {
      input.idle.push_back({.id = id, .pages = 1 + static_cast<int64_t>(random() % 6)});
    }
    std::shuffle(input.idle.begin(), input.idle.end(), random);
    input.max_ahead = 1 + static_cast<int64_t>(random() % 12);
    const ResidencyPlan plan = PlanResidency(input);
    int64_t pages = input.free_pages;
    for (const IdleAdapter& idle : input.idle) {
      if (std::count(plan.evict.begin(), plan.evict.end(), idle.id) > 0) pages += idle.pages;
    }
    for (const WantedAdapter& wanted : input.wanted) {
      if (std::count(plan.pack.begin(), plan.pack.end(), wanted.id) > 0) pages -= wanted.pages;
    }
    EXPECT_GE(pages, 0) << "seed " << seed;
    EXPECT_EQ(std::set<AdapterId>(plan.evict.begin(), plan.evict.end()).size(), plan.evict.size()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace lorad
