#pragma once

#include <cstdint>
#include <unordered_set>

#include "scheduler/state.h"

namespace lorad {

// Memory that nobody uses and anybody may have: idle blocks of the prefix cache and idle, unpinned adapters. Of both,
// what was used longest ago goes first (DECISIONS 14). Engine thread.

// Free pages, and those that evicting all of it would free.
int64_t AvailablePages(const SchedulerState& state);

// Evicts the oldest block or adapter. False: there is none.
bool EvictOldest(SchedulerState* state);

// Evicts until `pages` are free or nothing is left but `spared` adapters.
void EvictUntilFree(int64_t pages, const std::unordered_set<AdapterId>& spared, SchedulerState* state);

}  // namespace lorad
