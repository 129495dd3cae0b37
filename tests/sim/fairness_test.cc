#include <gtest/gtest.h>

#include <random>

#include "tests/sim/service_ledger.h"

namespace lorad {
namespace {

constexpr int kAdapters = 6;

// Adapters that want very different amounts of service, in long and short requests, and now and then nothing; with few
// pages they have to be loaded, and sequences are preempted.
class Tenants final {
 public:
  Tenants(uint64_t seed, const std::string& order) : random_(seed), world_(OptionsOf(seed, order)), ledger_(&world_) {
    for (int i = 0; i < kAdapters; ++i) world_.Folder(NameOf(i), 1 + i, Draw(1, 4));
    for (int i = 0; i < kAdapters; ++i) {
      (void)world_.Load(NameOf(i));
      appetite_.push_back(static_cast<int>(Draw(5, 90)));
      prompt_tokens_.push_back(Draw(4, 120));
    }
  }

  void Run(int turns) {
    for (int turn = 0; turn < turns; ++turn) {
      for (int i = 0; i <= kAdapters; ++i) {  // the last is the base
        if (Draw(0, 199) == 0 && i < kAdapters) appetite_[static_cast<size_t>(i)] = static_cast<int>(Draw(0, 90));
        const int percent = i < kAdapters ? appetite_[static_cast<size_t>(i)] : 20;
        if (Draw(1, 100) > percent) continue;
        const int64_t most = i < kAdapters ? prompt_tokens_[static_cast<size_t>(i)] : 60;
        Request request = world_.MakeRequest(i < kAdapters ? NameOf(i) : "", Draw(1, most), Draw(1, 50));
        (void)world_.Submit(std::move(request));
      }
      world_.AnswerLoader();
      world_.Turn();
      ledger_.NoteTurn();
    }
  }

  const ServiceLedger& ledger() const { return ledger_; }
  const FakeWorld& world() const { return world_; }

 private:
  static std::string NameOf(int i) { return absl::StrCat("tenant-", i); }
  static FakeWorld::Options OptionsOf(uint64_t seed, const std::string& order) {
    FakeWorld::Options options;
    options.total_pages = seed % 2 == 0 ? 400 : 40 + static_cast<int64_t>(seed % 30);
    options.config.max_batch_tokens = 64 + static_cast<int64_t>(seed * 13 % 200);
    options.config.max_sequences = 2 + static_cast<int64_t>(seed % 11);
    options.config.queue_limit = 400;
    options.config.target_step_us = 30'000;
    options.config.max_overtakes = 8;
    options.config.order = order;
    if (seed % 4 == 3) options.config.max_running_per_adapter = 2;
    if (seed % 3 == 0) options.config.prices.weights = {{"tenant-0", 3.0}, {"tenant-1", 0.5}, {"(base)", 2.0}};
    return options;
  }
  int64_t Draw(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1));
  }

  std::mt19937_64 random_;
  FakeWorld world_;
  ServiceLedger ledger_;
  std::vector<int> appetite_;  // chance of a request in a turn, percent
  std::vector<int64_t> prompt_tokens_;
};

TEST(FairnessTest, NoTwoBackloggedAdaptersAreEverServedFurtherApartThanTheBound) {
  double closest = 0.0;
  int64_t preempted = 0;
  int64_t evicted = 0;
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    Tenants tenants(seed, "fair_share");
    tenants.Run(600);
    ASSERT_LE(tenants.ledger().widest_gap(), tenants.ledger().bound()) << "seed " << seed;
    closest = std::max(closest, tenants.ledger().widest_gap() / tenants.ledger().bound());
    preempted += tenants.world().observer.preempted;
    evicted += tenants.world().observer.evicted;
  }
  RecordProperty("widest_gap_of_bound", absl::StrCat(closest));
  // The runs reach what makes it hard.
  EXPECT_GT(closest, 0.2);
  EXPECT_GT(preempted, 50);
  EXPECT_GT(evicted, 100);
}

TEST(FairnessTest, TheSameTrafficServedAsItComesGoesFarBeyondTheBound) {
  int beyond = 0;
  for (uint64_t seed = 2; seed <= 20; seed += 2) {
    Tenants tenants(seed, "fcfs");
    tenants.Run(600);
    beyond += tenants.ledger().widest_gap() > tenants.ledger().bound();
  }
  EXPECT_GE(beyond, 4);
}

TEST(FairnessTest, ServiceGoesByWeightWhileAllAreBacklogged) {
  FakeWorld::Options options{.total_pages = 400};
  options.config.max_sequences = 4;
  options.config.queue_limit = 2'000;
  options.config.order = "fair_share";
  options.config.prices.weights = {{"gold", 3.0}};
  FakeWorld world(options);
  world.Folder("gold", 1);
  world.Folder("iron", 2);
  ASSERT_TRUE(world.Load("gold").ok());
  ASSERT_TRUE(world.Load("iron").ok());
  ServiceLedger ledger(&world);
  for (int i = 0; i < 400; ++i) {
    world.Generate("gold", 10, 20);
    world.Generate("iron", 40, 5);
  }
  for (int i = 0; i < 700; ++i) {
    world.Turn();
    ledger.NoteTurn();
  }
  ASSERT_EQ(world.core.state().accounts.Find("gold")->backlogged, true);
  // The ledger counts by weight, so equal here is three times as much.
  EXPECT_NEAR(ledger.service("gold") / ledger.service("iron"), 1.0, 0.05);
  EXPECT_LE(ledger.widest_gap(), ledger.bound());
}

}  // namespace
}  // namespace lorad
