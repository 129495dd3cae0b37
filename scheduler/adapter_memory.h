#pragma once

#include "absl/status/status.h"
#include "scheduler/state.h"

namespace lorad {

// Where adapter versions lie: on disk, in host memory, in the pool; who is wanted there says wanted_versions.h. Engine
// thread.

// Gives the version to a loader. Errors: ResourceExhausted: its queue is full.
absl::Status StartReading(AdapterVersion* version, SchedulerState* state);

// Reads, evicts and packs what waiting requests, pins and loads want, as adapters/residency.h decides; answers loads
// for which there is no room now. True: a read or a packing was begun.
bool RunResidency(SchedulerState* state);

// Versions that the pool evicted become kHost; drained ones without users are given back and their unloads answered.
// True: there were some.
bool SettleAdapters(SchedulerState* state);

}  // namespace lorad
