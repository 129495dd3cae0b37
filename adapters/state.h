#pragma once

#include <cstdint>
#include <string_view>

namespace lorad {

// What one loaded version of an adapter is, from its name becoming known to its memory being given back.
enum class AdapterState : uint8_t {
  kUnknown,   // no such name
  kLoading,   // a loader reads it, or packs it into pages
  kHost,      // known and readable at once, not in the pool: just read, or evicted
  kResident,  // in the pool
  kDraining,  // unloaded or replaced; running sequences finish on it, nobody new begins
  kGone,      // its pages are free
  kFailed,    // could not be read; the reason is kept until it is loaded again or unloaded
};
inline constexpr int kNumAdapterStates = 7;

std::string_view Name(AdapterState state);  // "loading"

// Whether the step from one state to another exists; a state does not follow itself.
bool CanFollow(AdapterState from, AdapterState to);

}  // namespace lorad
