#pragma once

#include "scheduler/executor.h"
#include "scheduler/reserve.h"
#include "scheduler/state.h"

namespace lorad {

// Makes the step's memory and leases its sequences', who run from here on, and launches it. `before`: the step in
// flight that it goes behind, some of whose draws are its tokens; null: none is.
Ticket LaunchStep(HeldStep* held, const HeldStep* before, SchedulerState* state);

}  // namespace lorad
