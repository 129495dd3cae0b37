#pragma once

#include "scheduler/planner.h"
#include "scheduler/state.h"

namespace lorad {

// What the planner decides on: the state as it will be when the step in flight, if there is one, has drawn its tokens.
PlanInput MakePlanInput(const SchedulerState& state);

}  // namespace lorad
