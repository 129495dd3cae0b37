#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "tests/sim/timed_loader.h"
#include "tests/support/fake_world.h"

namespace lorad {
namespace {

constexpr int kHotClients = 24;
constexpr int64_t kSeats = 8;
constexpr int64_t kHotPages = 6;
constexpr int64_t kColdPages = 12;
constexpr int64_t kRunUs = 20'000'000;

struct Setting {
  std::string order = "fcfs";
  int64_t max_overtakes = 16;
  int64_t total_pages = 2 * kHotPages + 60;  // too few for all seats
  int64_t read_us = 50'000;
  bool cold = true;
};

struct Measured {
  double hot_tokens_a_second = 0.0;
  int64_t cold_answered = 0;
  int64_t longest_cold_first_token_us = 0;  // the one that still waits at the end included
};

// Requests of the base and of two adapters take all seats and all memory, and more always wait; beside them one request
// at a time of an adapter that was never read before.
class Crowd final {
 public:
  explicit Crowd(const Setting& setting)
      : setting_(setting), world_(OptionsOf(setting)), loader_(&world_, {.read_us = setting.read_us}) {
    for (const char* name : {"hot-0", "hot-1"}) {
      world_.Folder(name, 1 + name[4], kHotPages);
      (void)world_.Load(name);
    }
    began_us_ = world_.clock.NowUs();
  }

  Measured Run() {
    while (world_.clock.NowUs() - began_us_ < kRunUs) {
      for (std::shared_ptr<RecordingSink>& client : hot_) {
        if (client == nullptr || client->finished()) client = AskHot();
      }
      if (setting_.cold) FollowCold();
      loader_.AnswerDue();
      LORAD_CHECK(world_.Turn());
    }
    NoteColdFirstToken();
    int64_t hot_tokens = 0;
    for (const auto& [adapter, tokens] : world_.observer.tokens_by_adapter) {
      if (adapter.rfind("cold", 0) != 0) hot_tokens += tokens;
    }
    measured_.hot_tokens_a_second = static_cast<double>(hot_tokens) * 1e6 / kRunUs;
    return measured_;
  }

 private:
  static FakeWorld::Options OptionsOf(const Setting& setting) {
    FakeWorld::Options options{.total_pages = setting.total_pages};
    options.config.max_sequences = kSeats;
    options.config.target_step_us = 15'000;
    options.config.order = setting.order;
    options.config.max_overtakes = setting.max_overtakes;
    return options;
  }
  int64_t Draw(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1));
  }
  std::shared_ptr<RecordingSink> AskHot() {
    const std::string names[] = {"", "hot-0", "hot-1"};
    return world_.Generate(names[Draw(0, 2)], Draw(8, 100), Draw(8, 100));
  }

  void FollowCold() {
    if (cold_ != nullptr && cold_->answer().events == 0) return;
    if (cold_ != nullptr) {
      ++measured_.cold_answered;
      NoteColdFirstToken();
    }
    const std::string name = absl::StrCat("cold-", measured_.cold_answered);
    world_.Folder(name, 1'000 + static_cast<uint64_t>(measured_.cold_answered), kColdPages);
    Request request = world_.MakeRequest(name, 40, 10);
    cold_ = FakeWorld::SinkOf(request);
    cold_began_us_ = request.arrival_us;
    LORAD_CHECK(world_.Submit(std::move(request), FakeWorld::PathOf(name)).ok());
  }
  void NoteColdFirstToken() {
    const int64_t waited_us = cold_ == nullptr ? 0 : world_.clock.NowUs() - cold_began_us_;
    measured_.longest_cold_first_token_us = std::max(measured_.longest_cold_first_token_us, waited_us);
  }

  const Setting setting_;
  std::mt19937_64 random_{11};
  FakeWorld world_;
  TimedLoader loader_;
  std::shared_ptr<RecordingSink> hot_[kHotClients];
  std::shared_ptr<RecordingSink> cold_;
  int64_t cold_began_us_ = 0;
  int64_t began_us_ = 0;
  Measured measured_;
};

Measured Measure(const Setting& setting) { return Crowd(setting).Run(); }

// Whoever waits for a read waits for that, for what was before it in the order, and for the memory of those that run to
// come free: an answer of a hundred tokens takes 0.4 s at most here. Nobody who came later begins instead of it.
TEST(OvertakingTest, WhoWaitsForAReadIsNotStarvedAndHoldsBackOthersByNoMoreThanASeat) {
  constexpr int64_t kQueueAndMemoryUs = 800'000;
  for (const char* order : {"fcfs", "fair_share"}) {
    for (const int64_t pages : {72, 100}) {
      const double alone = Measure({.order = order, .total_pages = pages, .cold = false}).hot_tokens_a_second;
      for (const int64_t read_us : {5'000, 50'000, 500'000}) {
        const Measured beside = Measure({.order = order, .total_pages = pages, .read_us = read_us});
        const std::string which = absl::StrCat(order, ", ", pages, " pages, reads of ", read_us, " us");
        EXPECT_GE(beside.cold_answered, 25) << which;
        EXPECT_LE(beside.longest_cold_first_token_us, read_us + kQueueAndMemoryUs) << which;
        // Beside a read that takes most of the time there is always a seat kept; short ones give the cold their share.
        if (read_us == 500'000) {
          EXPECT_GE(beside.hot_tokens_a_second, alone * (kSeats - 1) / kSeats) << which;
        }
      }
    }
  }
}

TEST(OvertakingTest, WithoutABoundItWaitsForLonger) {
  Setting setting{.order = "fair_share", .read_us = 500'000};
  const Measured bounded = Measure(setting);
  setting.max_overtakes = std::numeric_limits<int64_t>::max();
  EXPECT_GT(Measure(setting).longest_cold_first_token_us, 1.5 * bounded.longest_cold_first_token_us);
}

}  // namespace
}  // namespace lorad
