#include <gtest/gtest.h>

#include "absl/strings/str_join.h"
#include "tests/sim/simulation.h"

namespace lorad {
namespace {

TEST(SimulationTest, UnderAnyTrafficEveryRequestIsAnsweredOnceAndRightAndNothingIsKept) {
  int64_t answered_in_full = 0;
  int64_t preempted = 0;
  int64_t evicted = 0;
  int64_t loaded = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(seed);
    simulation.Run(400);
    simulation.WindDown();
    const std::vector<std::string> faults = simulation.Faults();
    ASSERT_TRUE(faults.empty()) << "seed " << seed << ":\n" << absl::StrJoin(faults, "\n");
    answered_in_full += simulation.answered_in_full();
    preempted += simulation.world().observer.preempted;
    evicted += simulation.world().observer.evicted;
    loaded += simulation.world().observer.loaded;
  }
  // The runs reach what they are meant to reach.
  EXPECT_GT(answered_in_full, 1000);
  EXPECT_GT(preempted, 100);
  EXPECT_GT(evicted, 100);
  EXPECT_GT(loaded, 1000);
}

}  // namespace
}  // namespace lorad
