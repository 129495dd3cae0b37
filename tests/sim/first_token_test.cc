#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/support/fake_world.h"

namespace lorad {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kLimitUs = 1'000'000;
constexpr int kAdapters = 12;
constexpr int64_t kRunUs = 20'000'000;

// Requests of many adapters, of which half fit the memory at a time, come at random at a steady rate.
class Traffic final {
 public:
  Traffic(uint64_t seed, const std::string& order, int64_t limit_us)
      : random_(seed), world_(OptionsOf(order, limit_us)) {
    for (int i = 0; i < kAdapters; ++i) {
      world_.Folder(absl::StrCat("a", i), 1 + i, 10);
      (void)world_.Load(absl::StrCat("a", i));
    }
    began_us_ = world_.clock.NowUs();
  }

  // As much as can be served: 40 always wait. Requests answered a second.
  double Capacity() {
    while (world_.clock.NowUs() - began_us_ < kRunUs) {
      while (world_.inbox.queued_sequences() < 40) Arrive();
      Turn();
    }
    return static_cast<double>(world_.observer.finished.size()) * 1e6 / kRunUs;
  }

  // The share of all requests whose first token came within kLimitUs.
  double Attainment(double requests_a_second) {
    int64_t next_us = began_us_;
    while (world_.clock.NowUs() - began_us_ < kRunUs) {
      while (next_us <= world_.clock.NowUs()) {
        Arrive();
        const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;
        next_us += static_cast<int64_t>(-std::log(1.0 - uniform) * 1e6 / requests_a_second);
      }
      if (!Turn()) world_.clock.Advance(std::max<int64_t>(1, next_us - world_.clock.NowUs()));
    }
    int64_t in_time = 0;
    for (const int64_t us : world_.observer.first_tokens_us) in_time += us <= kLimitUs;
    return static_cast<double>(in_time) / static_cast<double>(arrived_);
  }

  int64_t ended_late() const {
    int64_t late = 0;
    for (const SequenceStats& stats : world_.observer.finished) late += stats.late;
    return late;
  }
  int64_t evicted() const { return world_.observer.evicted; }

 private:
  static FakeWorld::Options OptionsOf(const std::string& order, int64_t limit_us) {
    FakeWorld::Options options{.total_pages = 130};  // 12 adapters take 120, KV of those running about 50
    options.config.max_sequences = 8;
    options.config.queue_limit = 100'000;
    options.config.target_step_us = 15'000;
    options.config.order = order;
    options.config.slo_first_token_us = limit_us;
    return options;
  }
  int64_t Draw(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1));
  }
  void Arrive() {
    Request request = world_.MakeRequest(absl::StrCat("a", Draw(0, kAdapters - 1)), Draw(8, 60), Draw(8, 60));
    LORAD_CHECK(world_.Submit(std::move(request)).ok());
    ++arrived_;
  }
  bool Turn() {
    const bool loaded = world_.AnswerLoader();
    return world_.Turn() || loaded;
  }

  std::mt19937_64 random_;
  FakeWorld world_;
  int64_t began_us_ = 0;
  int64_t arrived_ = 0;
};

TEST(FirstTokenTest, BeyondCapacityMostOfWhatCanBeServedIsServedInTimeAndWithoutTheLimitAlmostNothing) {
  constexpr double kLoad = 1.3;
  for (const char* order : {"fcfs", "fair_share"}) {
    const double capacity = Traffic(1, order, 0).Capacity();
    const double without = Traffic(2, order, 0).Attainment(kLoad * capacity);
    Traffic limited(2, order, kLimitUs);
    const double with_limit = limited.Attainment(kLoad * capacity);
    EXPECT_GE(with_limit, 0.9 / kLoad) << order;
    EXPECT_GT(limited.ended_late(), 50) << order;
    EXPECT_GT(limited.evicted(), 50) << order;  // prefetch and abort at work together
    if (std::string(order) == "fcfs") {
      EXPECT_LT(without, 0.3);
    }
    RecordProperty(absl::StrCat(order, "_attainment"), absl::StrCat(with_limit, " without: ", without));
  }
}

TEST(FirstTokenTest, WithinCapacityNothingIsEnded) {
  const double capacity = Traffic(1, "fcfs", 0).Capacity();
  Traffic light(3, "fcfs", kLimitUs);
  EXPECT_GT(light.Attainment(0.6 * capacity), 0.99);
  EXPECT_LE(light.ended_late(), 5);
}

TEST(FirstTokenTest, ARequestThatCannotBeInTimeEndsAtOnceWithTheNumbers) {
  FakeWorld world({.total_pages = 200, .config = {.max_sequences = 2, .slo_first_token_us = 100'000}});
  const auto running = world.Generate("", 20, 60);
  for (int i = 0; i < 5; ++i) world.Turn();
  // A seat is free, but by the steps seen its prompt takes more than a tenth of a second.
  Request request = world.MakeRequest("", 1'500, 4);
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Turn();
  EXPECT_EQ(sink->answer().finish.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(sink->answer().finish.status.message()), HasSubstr("limit ms: 100 (--slo-first-token)"));
  EXPECT_FALSE(running->finished());
  world.Settle();
  EXPECT_EQ(running->answer().finish.reason, FinishReason::kLength);
}

TEST(FirstTokenTest, WhatThePrefixCacheHasOfAPromptTakesNoTime) {
  FakeWorld world({.total_pages = 200, .config = {.slo_first_token_us = 100'000}});
  Request first = world.MakeRequest("", 1'500, 4);
  Request again = first;
  again.id = 77;
  again.sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(world.Submit(std::move(first)).ok());  // nothing runs beside it, and nothing is known of steps
  world.Settle();
  const auto running = world.Generate("", 20, 60);
  for (int i = 0; i < 5; ++i) world.Turn();
  again.arrival_us = world.clock.NowUs();
  const auto sink = FakeWorld::SinkOf(again);
  ASSERT_TRUE(world.Submit(std::move(again)).ok());
  world.Settle();
  EXPECT_EQ(sink->answer().finish.reason, FinishReason::kLength) << sink->answer().finish.status;
}

// One step of ten seconds, and the model would have nobody make it any more: it must not stay with that.
TEST(FirstTokenTest, AWrongPredictionEndsNobodyForLong) {
  FakeWorld world({.total_pages = 200, .config = {.slo_first_token_us = 1'000'000}});
  world.executor.on_step = [&world](absl::Span<const ExecRow> rows, StepResult* result) {
    result->execute_us = 10'000'000;
    if (rows[0].token_ids.size() == 1) world.executor.on_step = nullptr;
  };
  world.Generate("", 60, 40);
  for (int i = 0; i < 4; ++i) world.Turn();
  int64_t served = 0;
  for (int i = 0; i < 10; ++i) {
    const auto sink = world.Generate("", 60, 4);
    world.Settle();
    served += sink->answer().finish.status.ok();
  }
  EXPECT_GE(served, 9);
}

TEST(FirstTokenTest, WhoHasBegunIsNeverEndedForIt) {
  FakeWorld world({.total_pages = 8, .config = {.slo_first_token_us = 20'000}});
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 4; ++i) sinks.push_back(world.Generate("", 16, 60));  // preempted, and long in the queue again
  world.Settle();
  EXPECT_GT(world.observer.preempted, 0);
  for (const auto& sink : sinks) EXPECT_EQ(sink->answer().finish.reason, FinishReason::kLength);
}

TEST(FirstTokenTest, OneThatWaitsForALoadEndsWhenItBecomesLate) {
  FakeWorld world({.config = {.slo_first_token_us = 50'000}});
  world.Folder("slow", 1);
  world.loader.folders[FakeWorld::PathOf("slow")].hangs = true;
  Request request = world.MakeRequest("slow", 4, 4);
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request), FakeWorld::PathOf("slow")).ok());
  world.Settle();
  EXPECT_FALSE(sink->finished());
  const int64_t wait_us = world.core.WaitBudgetUs();
  ASSERT_GT(wait_us, 0);
  EXPECT_LE(wait_us, 50'001);
  world.clock.Advance(wait_us);
  world.Turn();
  EXPECT_EQ(sink->answer().finish.status.code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace lorad
