#include "scheduler/order/order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace lorad {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Builds the waiting with words; they are numbered from 0 as they are named.
class Waiting final {
 public:
  Waiting& Of(uint64_t account, double cost, double served = 0.0, int32_t priority = 0) {
    const uint64_t number = keys_.size();
    keys_.push_back({.priority = priority,
                     .arrival_us = static_cast<int64_t>(100 * number),
                     .number = number,
                     .account = account,
                     .served = served,
                     .cost = cost});
    return *this;
  }
  Waiting& Begun() {
    keys_.back().begun = true;
    keys_.back().cost = 0.0;
    return *this;
  }

  // The numbers in the order in which they begin.
  std::vector<uint64_t> By(const char* order, bool latest_first = false) {
    std::sort(keys_.begin(), keys_.end(), CameBefore);
    std::vector<uint64_t> numbers;
    for (const size_t place : FindSequenceOrder(order)->Arrange(keys_, latest_first)) {
      numbers.push_back(keys_[place].number);
    }
    return numbers;
  }

 private:
  std::vector<OrderKey> keys_;
};

TEST(OrderTest, FcfsGoesByPriorityThenBegunThenArrival) {
  EXPECT_THAT(Waiting().Of(1, 5).Of(1, 5).Of(2, 5).Begun().Of(1, 5, 0, -1).By("fcfs"), ElementsAre(3, 2, 0, 1));
}

TEST(OrderTest, FcfsLatestFirstTurnsRoundWhatHasNotBegunWithinAPriority) {
  EXPECT_THAT(Waiting().Of(1, 5).Of(1, 5).Begun().Of(2, 5).Of(1, 5, 0, -1).Of(1, 5, 0, -1).By("fcfs", true),
              ElementsAre(4, 3, 1, 2, 0));
}

TEST(OrderTest, FairShareTakesWhoWasServedLeast) {
  EXPECT_THAT(Waiting().Of(1, 1, 30).Of(2, 1, 10).Of(3, 1, 20).By("fair_share"), ElementsAre(1, 2, 0));
}

TEST(OrderTest, FairShareChargesEachBeforeItChoosesTheNext) {
  // Account 1 sends short prompts, account 2 long ones: four of the one for each of the other.
  Waiting waiting;
  for (int i = 0; i < 8; ++i) waiting.Of(1, 10);
  for (int i = 0; i < 2; ++i) waiting.Of(2, 40);
  EXPECT_THAT(waiting.By("fair_share"), ElementsAre(0, 8, 1, 2, 3, 4, 9, 5, 6, 7));
}

TEST(OrderTest, FairShareServesAsMuchMoreAsTheCostIsLess) {
  Waiting waiting;  // the same prompts, but account 2 has three times the weight
  for (int i = 0; i < 6; ++i) waiting.Of(1, 30);
  for (int i = 0; i < 6; ++i) waiting.Of(2, 10);
  const std::vector<uint64_t> order = waiting.By("fair_share");
  EXPECT_EQ(std::count_if(order.begin(), order.begin() + 8, [](uint64_t number) { return number >= 6; }), 6);
}

TEST(OrderTest, FairShareKeepsAnAccountsOwnOrderAndItsPreemptedFirst) {
  EXPECT_THAT(Waiting().Of(1, 5).Of(1, 5).Begun().Of(1, 5).By("fair_share"), ElementsAre(1, 0, 2));
  EXPECT_THAT(Waiting().Of(1, 5).Of(1, 5).Begun().Of(1, 5).By("fair_share", true), ElementsAre(1, 2, 0));
}

TEST(OrderTest, FairSharePreemptedOnesWaitForTheirAccountsTurn) {
  EXPECT_THAT(Waiting().Of(1, 5, 90).Begun().Of(2, 5, 10).By("fair_share"), ElementsAre(1, 0));
}

TEST(OrderTest, FairShareCountsWithinAPriorityWhatThoseBeforeItTook) {
  EXPECT_THAT(Waiting().Of(1, 50, 0, -1).Of(1, 5).Of(2, 5).By("fair_share"), ElementsAre(0, 2, 1));
}

TEST(OrderTest, EveryOrderArrangesEachOnce) {
  for (const SequenceOrder* order : SequenceOrders()) {
    for (const bool latest_first : {false, true}) {
      Waiting waiting;
      for (int i = 0; i < 50; ++i) waiting.Of(1 + i * 7 % 5, i * 13 % 17, i * 7 % 5 * 20, i % 3);
      std::vector<uint64_t> numbers = waiting.By(std::string(order->name()).c_str(), latest_first);
      std::sort(numbers.begin(), numbers.end());
      ASSERT_EQ(numbers.size(), 50u) << order->name();
      EXPECT_EQ(std::unique(numbers.begin(), numbers.end()), numbers.end()) << order->name();
    }
    EXPECT_THAT(order->Arrange({}, false), IsEmpty());
  }
  EXPECT_EQ(FindSequenceOrder("lottery"), nullptr);
}

}  // namespace
}  // namespace lorad
