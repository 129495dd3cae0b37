#include "adapters/state.h"

namespace lorad {
namespace {

constexpr bool kFollows[kNumAdapterStates][kNumAdapterStates] = {
    //               Unknown Loading Host   Resident Draining Gone   Failed
    /* Unknown  */ {false, true, false, false, false, false, false},
    /* Loading  */ {false, false, true, true, true, true, true},
    /* Host     */ {false, true, false, true, true, true, true},
    /* Resident */ {false, false, true, false, true, true, false},
    /* Draining */ {false, false, false, false, false, true, false},
    /* Gone     */ {false, false, false, false, false, false, false},
    /* Failed   */ {false, true, false, false, false, true, false},
};

}  // namespace

std::string_view Name(AdapterState state) {
  switch (state) {
    case AdapterState::kUnknown:
      return "unknown";
    case AdapterState::kLoading:
      return "loading";
    case AdapterState::kHost:
      return "host";
    case AdapterState::kResident:
      return "resident";
    case AdapterState::kDraining:
      return "draining";
    case AdapterState::kGone:
      return "gone";
    case AdapterState::kFailed:
      return "failed";
  }
  return "?";
}

bool CanFollow(AdapterState from, AdapterState to) { return kFollows[static_cast<int>(from)][static_cast<int>(to)]; }

}  // namespace lorad
