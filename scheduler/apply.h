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

// `version` is known by now. Waiting sequences on it that cannot ever run beside it end with InvalidArgument; the
// others learn what depends on it: how much fits beside it, from where it is active, which cached blocks are theirs,
// with which tokenizer their text is to become ids.
void RefuseThoseThatNeverFit(AdapterVersion* version, SchedulerState* state);

}  // namespace lorad
