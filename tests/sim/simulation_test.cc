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

TEST(SimulationTest, UnderAnyTrafficEveryRequestIsAnsweredOnceAndRightAndNothingIsKept) {
  int64_t answered_in_full = 0;
  int64_t preempted = 0;
  int64_t evicted = 0;
  int64_t loaded = 0;
  int64_t hit_tokens = 0;
  int64_t blocks_evicted = 0;
  const uint64_t first = FromEnvironment("LORAD_SIM_FIRST_SEED", 1);
  const uint64_t seeds = FromEnvironment("LORAD_SIM_SEEDS", 100);
  std::signal(SIGABRT, TellSeed);
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    running_seed = static_cast<std::sig_atomic_t>(seed);
    Simulation simulation(seed);
    simulation.Run(400);
    simulation.WindDown();
    const std::vector<std::string> faults = simulation.Faults();
    ASSERT_TRUE(faults.empty()) << "seed " << seed << ":\n" << absl::StrJoin(faults, "\n");
    answered_in_full += simulation.answered_in_full();
    preempted += simulation.world().observer.preempted;
    evicted += simulation.world().observer.evicted;
    loaded += simulation.world().observer.loaded;
    const PrefixCacheSnapshot prefixes = simulation.world().core.snapshot()->prefix_cache;
    hit_tokens += prefixes.hit_tokens;
    blocks_evicted += prefixes.evicted_blocks;
  }
  // The runs reach what they are meant to reach.
  if (seeds < 100) return;
  EXPECT_GT(answered_in_full, 1000);
  EXPECT_GT(preempted, 100);
  EXPECT_GT(evicted, 100);
  EXPECT_GT(loaded, 1000);
  EXPECT_GT(hit_tokens, 10'000);
  EXPECT_GT(blocks_evicted, 1000);
}

}  // namespace
}  // namespace lorad
