#pragma once

#include "scheduler/command.h"
#include "scheduler/state.h"

namespace lorad {

// What a command does to the state. Drain: new requests are refused by the inbox already.
void Apply(Command command, SchedulerState* state);

// Ends the sequences whose deadline, or the drain's, has passed.
void ExpireDeadlines(SchedulerState* state);
// The next of these deadlines; -1: none.
int64_t NextDeadlineUs(const SchedulerState& state);

// Waiting sequences on `version`, whose size is known by now, that cannot ever run beside it end with InvalidArgument.
void RefuseThoseThatNeverFit(AdapterVersion* version, SchedulerState* state);

}  // namespace lorad
