#pragma once

#include "absl/status/status.h"
#include "scheduler/planner.h"
#include "scheduler/state.h"

namespace lorad {

// Where adapter versions lie: on disk, in host memory, in the pool. Engine thread.

// Gives the version to a loader. Errors: ResourceExhausted: its queue is full.
absl::Status StartReading(AdapterVersion* version, SchedulerState* state);

// Reads, evicts and packs what waiting requests, pins and loads want, as adapters/residency.h decides; answers loads
// for which there is no room now. True: a read or a packing was begun.
bool RunResidency(SchedulerState* state);

// Versions that the pool evicted become kHost; drained ones without users are given back and their unloads answered.
// True: there were some.
bool SettleAdapters(SchedulerState* state);

// Of all its adapters: one that is being read counts before one that waits for room, which holds others back.
AdapterReadiness ReadinessOf(const Sequence& sequence);

// Whether a seat may be kept for a request whose adapter is being read: no read began to hang lately. Where one folder
// hangs, others on the same mount do too, and seats kept for one after the other would hold everyone back.
bool MayKeepSeat(const SchedulerState& state);

}  // namespace lorad
