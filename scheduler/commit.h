#pragma once

#include "absl/status/statusor.h"
#include "scheduler/executor.h"
#include "scheduler/reserve.h"
#include "scheduler/state.h"

namespace lorad {

// Takes what the step made into the sequences: memory and leases, computed tokens, the drawn token; ends those that are
// done, and hands out one event a sequence that has news. An error of the step ends its rows' sequences, a row's error
// that one.
void CommitStep(HeldStep held, absl::StatusOr<StepResult> result, SchedulerState* state);

}  // namespace lorad
