#pragma once

#include <cstdint>

#include "scheduler/command.h"
#include "scheduler/state.h"

namespace lorad {

// Memory that training and serving share: pages are withheld for training while it holds their bytes elsewhere. On a
// device that can take parts of the pool, these are the bytes that it holds.

// Takes what is idle where free pages do not suffice, as a request would. What a turn has no time for is done in the
// next ones: more than before is answered when all is held, less at once.
void ApplyTuningMemory(TuningMemoryCommand command, SchedulerState* state);
// A turn's part of what is to be held. True: there was something to do.
bool GoOnHoldingMemory(SchedulerState* state);
// Whoever waits for memory is told `why` there is none; what is held is what was before.
void EndTuningMemory(const absl::Status& why, SchedulerState* state);

// Asks training to give back what it holds, once: a request cannot go on, or had to begin again. True: it holds
// something that it can give, or the device has not yet given back all that it held, so that waiting helps.
bool AskTuningForMemory(SchedulerState* state);

// Asks the device again, every now and then, for pages that it did not give back when training did. True: there are
// more than before.
bool TakePagesBack(SchedulerState* state);
// When that is due; -1: never.
int64_t TakePagesBackInUs(const SchedulerState& state);

}  // namespace lorad
