#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/planner.h"
#include "scheduler/state.h"

namespace lorad {

// Who wants which adapter versions in the pool, and how far these are: questions to the state, which nothing here
// changes. Engine thread.

// A version that somebody wants, and the first in order who waits for it; nullptr: only a command does.
struct WantedVersion {
  AdapterVersion* version;
  const Sequence* first;
  bool overtaken = false;  // one of its requests was, as often as may be
};

// Waiting requests in order, then pins, then loads that wait for their reply.
std::vector<WantedVersion> WantedVersions(const SchedulerState& state);

// A pin or a load wants it, whoever waits.
bool IsCommanded(const AdapterVersion& version);

// Pages that must be there before an adapter is placed: its own and, while others run and would take them away again,
// those of the request that waits for it.
int64_t PagesToPlace(const WantedVersion& wanted, const SchedulerState& state);

// Adapters to place ahead of their turn: those for whom there is a seat, and as many as may come free while one is read
// and placed.
int64_t AdaptersAhead(const SchedulerState& state);

// Whether its place in the queue says when it begins: another adapter's read does not hang, and its account may run
// more.
bool MayBegin(const WantedVersion& wanted, const SchedulerState& state);

// Of all its adapters: one that is being read counts before one that waits for room, which holds others back.
AdapterReadiness ReadinessOf(const Sequence& sequence);

// Whether a seat may be kept for a request whose adapter is being read: no read began to hang lately. Where one folder
// hangs, others on the same mount do too, and seats kept for one after the other would hold everyone back.
bool MayKeepSeat(const SchedulerState& state);

}  // namespace lorad
