#include "adapters/expert_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "adapters/image.h"
#include "model/memory/pool_memory.h"

namespace lorad {
namespace {

using testing::ElementsAre;

void Count(const std::vector<int32_t>& chosen, int64_t layer, ExpertLoad* load) {
  ExpertTally tally(load->experts());
  tally.Count(chosen);
  tally.AddTo(load->Counters(layer));
}

TEST(ExpertLoadTest, RowsAreCountedByLayerAndExpertAndPlacesWithoutExpertAreNot) {
  ExpertLoad load(2, 3);
  Count({0, 2, 2, -1}, 0, &load);
  Count({2, -1}, 0, &load);
  Count({1}, 1, &load);
  EXPECT_THAT(load.Rows(0), ElementsAre(1, 0, 3));
  EXPECT_THAT(load.Rows(1), ElementsAre(0, 1, 0));
}

TEST(ExpertLoadTest, NoRowIsLostWhenManyThreadsCount) {
  ExpertLoad load(1, 2);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&load] {
      for (int n = 0; n < 10'000; ++n) Count({0, 1, 1}, 0, &load);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(load.Rows(0), ElementsAre(40'000, 80'000));
}

TEST(ExpertLoadTest, WhereNobodyCountsNothingHappens) {
  ExpertTally tally(1);
  tally.Count(std::vector<int32_t>{0});
  tally.AddTo(nullptr);
}

TEST(ExpertLoadTest, ImbalanceIsTheLargestOverTheMeanAndItsMeanOverTheLayersThatHaveRows) {
  ExpertLoad load(3, 4);
  EXPECT_EQ(BalanceOf(load).rows, 0);
  EXPECT_EQ(BalanceOf(load).imbalance, 0.0);
  Count({0, 1, 2, 3}, 0, &load);  // even: 1
  Count({1, 1}, 2, &load);        // one expert for all: 4
  EXPECT_EQ(BalanceOf(load).rows, 6);
  EXPECT_EQ(BalanceOf(load).imbalance, 2.5);
}

TEST(ExpertLoadTest, AnAdapterWithoutRoutersHasNone) {
  AdapterImage image;
  image.slots.push_back({.site = Site::kQProj, .layer = 1});
  const auto pages = MapHostMemory(1 << 16).value();
  EXPECT_EQ(ExpertLoadFor(image, *pages), nullptr);
  image.slots.push_back({.site = Site::kFfn, .layer = 1, .experts = 5});
  image.slots.back().router.shape = {5, 8};
  const auto load = ExpertLoadFor(image, *pages);
  ASSERT_NE(load, nullptr);
  EXPECT_EQ(load->layers(), 2);
  EXPECT_EQ(load->experts(), 5);
}

}  // namespace
}  // namespace lorad
