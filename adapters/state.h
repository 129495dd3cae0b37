#pragma once

#include <cstdint>
#include <string_view>

namespace lorad {

// Life of one adapter version. Loading: being read and checked. Host: known, read again at need, not in the pool.
// Resident: in the pool. Draining: unloaded or replaced while requests run on it. Failed: its load failed; gone once told.
enum class AdapterState : uint8_t { kUnknown, kLoading, kHost, kResident, kDraining, kGone, kFailed };

std::string_view Name(AdapterState state);

// The one table of allowed transitions.
bool CanBecome(AdapterState from, AdapterState to);

}  // namespace lorad
