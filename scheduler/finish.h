#pragma once

#include <string>

#include "absl/status/status.h"
#include "scheduler/state.h"

namespace lorad {

// The only place where a sequence ends: fills event.finish's usage, hands `event` to the sink, tells the observer,
// gives back memory and lease, and forgets the sequence; where a step in flight has a row of it, LetGo does the latter.
void FinishWithEvent(TokenEvent event, Sequence* sequence, SchedulerState* state);

// The last step with a row of a sequence that ended is over: gives back its memory and leases, which that step may have
// used.
void LetGo(Sequence* sequence, SchedulerState* state);

// Ends it without more tokens: with `status` if it never began, else as kAbort with the status' message.
void GiveUp(const absl::Status& status, Sequence* sequence, SchedulerState* state);
// As the front end asked for: it met a stop string.
void FinishAsStop(Sequence* sequence, SchedulerState* state);

// From running back to waiting: memory and lease go, tokens stay, all to be computed again.
void Preempt(Sequence* sequence, SchedulerState* state);
// From waiting to running.
void Begin(Sequence* sequence, SchedulerState* state);

TokenEvent EventOf(const Sequence& sequence);

}  // namespace lorad
