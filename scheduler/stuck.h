#pragma once

#include "scheduler/state.h"

namespace lorad {

// Called when a turn could do nothing: ends the sequence that stands in the way if no load, no packing and no running
// sequence can still free the memory that it needs. True: one was ended.
bool FailHeadIfStuck(SchedulerState* state);

}  // namespace lorad
