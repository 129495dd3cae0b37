#pragma once

#include "absl/status/status.h"
#include "scheduler/state.h"

namespace lorad {

// What must hold between turns; simulations ask after each one.
//   - a running sequence holds the blocks of its computed tokens, and a lease on its own adapter; a waiting one
//   nothing;
//   - a page is owned by one sequence's block, by a cached block, by a resident adapter, or by one that is being
//   packed;
//   - a cached block is held by as many as it counts, it is full, and what nobody holds is counted as idle;
//   - counts of adapters' users are those of the sequences; a name's version is not draining; leases are of residents;
//   - the bounded queue counts the sequences that have not begun; both lists are in order.
// Errors: Internal, naming what is broken.
absl::Status CheckInvariants(const SchedulerState& state);

}  // namespace lorad
