#pragma once

#include "scheduler/command.h"
#include "scheduler/state.h"

namespace lorad {

// Memory that training and serving share: pages are counted as training's while it holds their bytes elsewhere.

// Takes what is idle where free pages do not suffice, as a request would.
void ApplyTuningMemory(TuningMemoryCommand command, SchedulerState* state);

// Asks training to give back what it holds, once: a request cannot go on, or had to begin again. True: it holds
// something that it can give, so that waiting helps.
bool AskTuningForMemory(SchedulerState* state);

}  // namespace lorad
