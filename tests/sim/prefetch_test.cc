#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "tests/sim/timed_loader.h"
#include "tests/support/fake_world.h"

namespace lorad {
namespace {

constexpr int kAdapters = 16;
constexpr int64_t kAdapterPages = 10;
constexpr int64_t kKvPages = 90;  // of eight sequences; a few more than they hold on average
constexpr int64_t kRunUs = 20'000'000;

struct Measured {
  double tokens_a_second = 0.0;
  int64_t median_first_token_us = 0;
  int64_t evicted = 0;
  int64_t answered = 0;
};

struct Setting {
  int adapters = kAdapters;
  int64_t adapters_that_fit = kAdapters;
  int64_t kv_pages = kKvPages;
  int64_t seats = 8;
  int64_t read_us = 10'000;
  int64_t run_us = kRunUs;
  std::string order = "fcfs";
  bool prefix_cache = true;
  double requests_a_second = 0.0;  // at random times; 0: a client an adapter, whose next request follows its last
};

// Adapters with requests in flight, twice as many as seats unless said. A read takes as long as several steps.
class Traffic final {
 public:
  explicit Traffic(const Setting& setting)
      : setting_(setting), world_(OptionsOf(setting)), loader_(&world_, {.read_us = setting.read_us}) {
    for (int i = 0; i < setting.adapters; ++i) {
      world_.Folder(NameOf(i), 1 + i, kAdapterPages);
      (void)world_.Load(NameOf(i));
      clients_.push_back(nullptr);
    }
    began_us_ = world_.clock.NowUs();
    next_us_ = began_us_;
  }

  Measured Run() {
    const int64_t evicted_before = world_.observer.evicted;
    while (world_.clock.NowUs() - began_us_ < setting_.run_us) {
      Arrive();
      const bool answered = loader_.AnswerDue();
      if (world_.Turn() || answered) continue;
      const int64_t next_us = std::min(loader_.NextUs(), setting_.requests_a_second > 0 ? next_us_ : kNever);
      LORAD_CHECK(next_us != kNever);
      world_.clock.Advance(std::max<int64_t>(1, next_us - world_.clock.NowUs()));
    }
    Measured measured;
    int64_t tokens = 0;
    for (const auto& [adapter, generated] : world_.observer.tokens_by_adapter) tokens += generated;
    measured.tokens_a_second = static_cast<double>(tokens) * 1e6 / static_cast<double>(setting_.run_us);
    std::vector<int64_t>& first_tokens = world_.observer.first_tokens_us;
    std::nth_element(first_tokens.begin(), first_tokens.begin() + first_tokens.size() / 2, first_tokens.end());
    measured.median_first_token_us = first_tokens[first_tokens.size() / 2];
    measured.evicted = world_.observer.evicted - evicted_before;
    measured.answered = static_cast<int64_t>(first_tokens.size());
    return measured;
  }

 private:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  static std::string NameOf(int i) { return absl::StrCat("a", i); }
  static FakeWorld::Options OptionsOf(const Setting& setting) {
    FakeWorld::Options options{.total_pages = setting.adapters_that_fit * kAdapterPages + setting.kv_pages};
    options.config.max_sequences = setting.seats;
    options.config.target_step_us = 15'000;
    options.config.order = setting.order;
    options.config.prefix_cache = setting.prefix_cache;
    options.config.queue_limit = 100'000;
    return options;
  }
  int64_t Draw(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1));
  }
  std::shared_ptr<RecordingSink> Ask(int adapter) {
    return world_.Generate(NameOf(adapter), Draw(8, 128), Draw(8, 128));
  }
  void Arrive() {
    if (setting_.requests_a_second == 0.0) {
      for (int i = 0; i < setting_.adapters; ++i) {
        std::shared_ptr<RecordingSink>& client = clients_[static_cast<size_t>(i)];
        if (client == nullptr || client->finished()) client = Ask(i);
      }
      return;
    }
    while (next_us_ <= world_.clock.NowUs()) {
      (void)Ask(static_cast<int>(Draw(0, setting_.adapters - 1)));
      const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;
      next_us_ += static_cast<int64_t>(-std::log(1.0 - uniform) * 1e6 / setting_.requests_a_second);
    }
  }

  const Setting setting_;
  std::mt19937_64 random_{7};
  FakeWorld world_;
  TimedLoader loader_;
  std::vector<std::shared_ptr<RecordingSink>> clients_;
  int64_t began_us_ = 0;
  int64_t next_us_ = 0;
};

Measured Measure(const Setting& setting) { return Traffic(setting).Run(); }

// Of the same traffic: when all fit, and when half of them do.
void ExpectHalfTheRoomCostsLittle(Setting setting, const std::string& which) {
  const Measured resident = Measure(setting);
  setting.adapters_that_fit = kAdapters / 2;
  const Measured half = Measure(setting);
  EXPECT_GT(half.evicted, resident.evicted) << which;
  EXPECT_GT(half.evicted, 100) << which;
  EXPECT_GE(half.tokens_a_second, 0.9 * resident.tokens_a_second) << which;
  EXPECT_LE(half.median_first_token_us, 2 * resident.median_first_token_us) << which;
  ::testing::Test::RecordProperty(
      which, absl::StrCat("tokens/s: ", half.tokens_a_second, " of ", resident.tokens_a_second,
                          "; first token us: ", half.median_first_token_us, " for ", resident.median_first_token_us));
}

TEST(PrefetchTest, TwiceAsManyAdaptersInFlightAsFitCostLittle) {
  for (const char* order : {"fcfs", "fair_share"}) {
    for (const bool prefix_cache : {false, true}) {
      ExpectHalfTheRoomCostsLittle({.order = order, .prefix_cache = prefix_cache},
                                   absl::StrCat(order, prefix_cache ? "_with_cache" : "_without_cache"));
    }
  }
}

TEST(PrefetchTest, BelowCapacityTheyCostLittleToo) {
  const double answer_tokens = 68.0;  // on average
  const double capacity = Measure({}).tokens_a_second / answer_tokens;
  for (const int percent : {30, 60, 80}) {
    ExpectHalfTheRoomCostsLittle({.requests_a_second = percent * capacity / 100},
                                 absl::StrCat("at_", percent, "_percent"));
  }
}

// Twice what runs, and later hundreds, wait for more adapters than fit, and those that run need all of the memory: an
// adapter is placed for a request that is about to begin, and stays until it does.
void ExpectNobodyIsEvictedBeforeItsTurn(Setting setting, const std::string& which) {
  setting.adapters = setting.adapters_that_fit = 100;
  setting.seats = 32;
  setting.read_us = 2'000;
  setting.run_us = kRunUs / 2;
  setting.kv_pages = 400;
  const Measured resident = Measure(setting);
  setting.adapters_that_fit = 32;
  setting.kv_pages = 120;
  const Measured scarce = Measure(setting);
  EXPECT_LE(scarce.evicted, 1.1 * scarce.answered) << which;
  EXPECT_GE(scarce.tokens_a_second, 0.9 * resident.tokens_a_second) << which;
  ::testing::Test::RecordProperty(which,
                                  absl::StrCat("tokens/s: ", scarce.tokens_a_second, " of ", resident.tokens_a_second,
                                               "; evictions: ", scarce.evicted, " for ", scarce.answered, " answers"));
}

TEST(PrefetchTest, ALongQueueDoesNotTakeThePagesOfThoseThatRun) {
  const double capacity =
      Measure({.adapters = 100, .adapters_that_fit = 100, .kv_pages = 400, .seats = 32, .run_us = kRunUs / 2})
          .tokens_a_second /
      68.0;
  for (const char* order : {"fcfs", "fair_share"}) {
    ExpectNobodyIsEvictedBeforeItsTurn({.order = order}, order);
    ExpectNobodyIsEvictedBeforeItsTurn({.order = order, .requests_a_second = 1.3 * capacity},
                                       absl::StrCat(order, "_overload"));
  }
}

}  // namespace
}  // namespace lorad
