#pragma once

#include <cstdint>

#include "scheduler/state.h"

namespace lorad {

// The limit on the time to the first token (slo_first_token_us): who can no longer make it is ended at once instead of
// taking what others could make it with. Everything here does nothing without a limit.
//
// Source   S-LoRA, arXiv 2311.03285, section 6 (early abort). Its code leaves a fixed half second and counts requests;
//          here the time is predicted from the fitted time of steps, and the rate from how fast sequences begin.

// Ends, with ResourceExhausted and the numbers, every waiting sequence that has not begun and would be late even if it
// began now.
void EndLateRequests(SchedulerState* state);

// When the next one will be late if nothing begins; -1 = never.
int64_t NextLateUs(const SchedulerState& state);

// More wait than can begin in time as they came: then each would be served just as it becomes late. The last to come
// go first, so that those who are served are well in time.
bool ServeLatestFirst(const SchedulerState& state);

}  // namespace lorad
