#pragma once

#include <cstdint>
#include <functional>

#include "scheduler/reserve.h"
#include "scheduler/state.h"

namespace lorad {

// Launches a reserved step and commits it; then, up to `most_steps` in all and for a second, each next step is planned
// and launched while the one before runs, as far as StepBehind and the executor allow, and no further once a sequence
// has ended whose room somebody may want. At the end nothing is in flight. planned_from_us: when planning of the first
// one began. `committed` is called after each.
void RunSteps(HeldStep first, int64_t planned_from_us, int64_t most_steps, SchedulerState* state,
              const std::function<void()>& committed);

}  // namespace lorad
