#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <gtest/gtest.h>

#include "absl/strings/str_join.h"
#include "tests/sim/simulation.h"

namespace lorad {
namespace {

volatile std::sig_atomic_t running_seed = 0;

// A broken invariant aborts: say of which run.
void TellSeed(int) { std::fprintf(stderr, "simulation seed: %d\n", static_cast<int>(running_seed)); }

// More than usual for longer proof, beginning where it is said.
uint64_t FromEnvironment(const char* name, uint64_t usual) {
  const char* const value = std::getenv(name);
  return value == nullptr ? usual : std::strtoull(value, nullptr, 10);
}

// What the runs reached, so that a test can say that they reach what they are meant to.
struct Reached {
  int64_t answered_in_full = 0;
  int64_t invoked = 0;
  int64_t ended_late = 0;
  int64_t preempted = 0;
  int64_t evicted = 0;
  int64_t loaded = 0;
  int64_t warm_loaded = 0;
  int64_t loads_failed = 0;
  int64_t hit_tokens = 0;
  int64_t blocks_evicted = 0;
  int64_t steps_behind = 0;
};

void RunSeed(uint64_t seed, int turns, Reached* reached) {
  running_seed = static_cast<std::sig_atomic_t>(seed);
  Simulation simulation(seed);
  simulation.Run(turns);
  simulation.WindDown();
  const std::vector<std::string> faults = simulation.Faults();
  ASSERT_TRUE(faults.empty()) << "seed " << seed << ":\n" << absl::StrJoin(faults, "\n");
  reached->answered_in_full += simulation.answered_in_full();
  reached->invoked += simulation.invoked();
  const CountingObserver& seen = simulation.world().observer;
  for (const SequenceStats& sequence : seen.finished) reached->ended_late += sequence.late;
  for (const StepStats& step : seen.steps) reached->steps_behind += step.behind;
  reached->preempted += seen.preempted;
  reached->evicted += seen.evicted;
  reached->loaded += seen.loaded;
  reached->warm_loaded += seen.warm_loaded;
  reached->loads_failed += seen.load_failed;
  const PrefixCacheSnapshot prefixes = simulation.world().core.snapshot()->prefix_cache;
  reached->hit_tokens += prefixes.hit_tokens;
  reached->blocks_evicted += prefixes.evicted_blocks;
}

TEST(SimulationTest, UnderAnyTrafficEveryRequestIsAnsweredOnceAndRightAndNothingIsKept) {
  const uint64_t first = FromEnvironment("LORAD_SIM_FIRST_SEED", 1);
  const uint64_t seeds = FromEnvironment("LORAD_SIM_SEEDS", 200);
  const auto turns = static_cast<int>(FromEnvironment("LORAD_SIM_TURNS", 1'000));
  std::signal(SIGABRT, TellSeed);
  Reached reached;
  for (uint64_t seed = first; seed < first + seeds; ++seed) ASSERT_NO_FATAL_FAILURE(RunSeed(seed, turns, &reached));
  if (seeds < 50 || turns < 1'000) return;  // a few runs again need not reach everything
  const auto each = static_cast<int64_t>(seeds);
  EXPECT_GT(reached.answered_in_full, 10 * each);
  EXPECT_GT(reached.invoked, 5 * each / 2);
  EXPECT_GT(reached.ended_late, 5 * each / 2);
  EXPECT_GT(reached.preempted, each);
  EXPECT_GT(reached.evicted, each);
  EXPECT_GT(reached.loaded, 10 * each);
  EXPECT_GT(reached.warm_loaded, each);
  EXPECT_GT(reached.loads_failed, each);
  EXPECT_GT(reached.hit_tokens, 100 * each);
  EXPECT_GT(reached.blocks_evicted, 10 * each);
  EXPECT_GT(reached.steps_behind, 50 * each);
}

// What only grows slowly shows in a long run.
TEST(SimulationTest, TenThousandStepsLeaveNothingBehind) {
  std::signal(SIGABRT, TellSeed);
  Reached reached;
  for (const uint64_t seed : {1006, 1013}) ASSERT_NO_FATAL_FAILURE(RunSeed(seed, 10'000, &reached));
  EXPECT_GT(reached.answered_in_full, 500);
}

}  // namespace
}  // namespace lorad
