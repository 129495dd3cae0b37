#include "adapters/state.h"

#include <gtest/gtest.h>

namespace lorad {
namespace {

TEST(AdapterStateTest, NothingFollowsGoneAndNothingStays) {
  for (int i = 0; i < kNumAdapterStates; ++i) {
    const auto state = static_cast<AdapterState>(i);
    EXPECT_FALSE(CanFollow(AdapterState::kGone, state));
    EXPECT_FALSE(CanFollow(state, state));
    EXPECT_FALSE(CanFollow(state, AdapterState::kUnknown));
  }
}

TEST(AdapterStateTest, EveryKnownAdapterCanEndAndOnlyDrainingLeadsNowhereElse) {
  for (const AdapterState state : {AdapterState::kLoading, AdapterState::kHost, AdapterState::kResident,
                                   AdapterState::kDraining, AdapterState::kFailed}) {
    EXPECT_TRUE(CanFollow(state, AdapterState::kGone)) << Name(state);
  }
  EXPECT_FALSE(CanFollow(AdapterState::kDraining, AdapterState::kResident));
}

TEST(AdapterStateTest, AnEvictedAdapterIsReadAgainBeforeItIsResident) {
  EXPECT_TRUE(CanFollow(AdapterState::kResident, AdapterState::kHost));
  EXPECT_TRUE(CanFollow(AdapterState::kHost, AdapterState::kLoading));
  EXPECT_TRUE(CanFollow(AdapterState::kLoading, AdapterState::kResident));
  EXPECT_FALSE(CanFollow(AdapterState::kResident, AdapterState::kFailed));
  EXPECT_FALSE(CanFollow(AdapterState::kUnknown, AdapterState::kResident));
}

}  // namespace
}  // namespace lorad
