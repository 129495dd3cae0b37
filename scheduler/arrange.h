#pragma once

#include "scheduler/state.h"

namespace lorad {

// At the beginning of a turn: says whose accounts are backlogged, and puts the waiting in the order in which they
// begin. An account is backlogged while one of its waiting could begin but for seats and memory: its adapter is ready,
// and it runs fewer than it may. Whoever waits for a load is not, and is lifted once it can be served.
void ArrangeWaiting(SchedulerState* state);

}  // namespace lorad
