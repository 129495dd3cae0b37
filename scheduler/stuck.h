#pragma once

#include "scheduler/state.h"

namespace lorad {

// Called when a turn could do nothing: ends the sequence that stands in the way if no load, no packing, no running
// sequence and no training can still free the memory that it needs. True: one was ended.
bool FailHeadIfStuck(SchedulerState* state);

}  // namespace lorad
