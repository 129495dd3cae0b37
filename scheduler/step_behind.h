#pragma once

#include <optional>

#include "scheduler/reserve.h"
#include "scheduler/state.h"

namespace lorad {

// The step after the one in flight, planned and reserved while that one runs: the same sequences go on, from tokens
// that it draws. A sequence that turns out to have ended with it has a row in vain.
//
// None where anything else is to be done first, which a turn does with nothing in flight: commands wait, a deadline has
// come, a sequence is to begin or to be preempted, pages must move, or a row needs more of the step in flight than its
// token (penalties count it, a rope goes by another length).
std::optional<HeldStep> StepBehind(const HeldStep& in_flight, SchedulerState* state);

}  // namespace lorad
