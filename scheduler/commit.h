#pragma once

#include "absl/status/statusor.h"
#include "scheduler/executor.h"
#include "scheduler/reserve.h"
#include "scheduler/state.h"

namespace lorad {

// Takes what a launched step made into its sequences: computed tokens, the drawn token; ends those that are done, and
// hands out one event a sequence that has news. An error of the step ends its rows' sequences, a row's error that one.
// Of a sequence that ended while the step ran, nothing is taken.
void CommitStep(const HeldStep& held, absl::StatusOr<StepResult> result, SchedulerState* state);

}  // namespace lorad
