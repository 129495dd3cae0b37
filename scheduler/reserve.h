#pragma once

#include <optional>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "adapters/lease.h"
#include "model/memory/page_pool.h"
#include "scheduler/plan.h"
#include "scheduler/state.h"

namespace lorad {

// What one row holds beyond what its sequence already has.
struct HeldRow {
  Sequence* sequence = nullptr;
  PlanRow plan;
  PrefixChain prefix = {};  // of a sequence that begins: what it begins with
  std::vector<PageRun> new_blocks = {};
  absl::InlinedVector<AdapterLease, 1> new_leases = {};

  absl::Span<const AdapterLease> leases() const { return sequence->leases.empty() ? new_leases : sequence->leases; }
  int32_t first_slot() const { return leases().empty() ? -1 : leases().front().slot(); }
};

// A plan with its memory and leases; what LaunchStep does not hand to the sequences is given back.
struct HeldStep {
  std::vector<HeldRow> rows;  // by adapter slot

  bool empty() const { return rows.empty(); }
};

// Carries out a plan's preemptions and reserves what its rows need: leases first, then KV blocks, evicting idle
// adapters and moving a few MiB where free pages are scattered. A row that cannot have all of it is dropped. `moving`
// is set when a row was dropped and further moving would help: the next turn goes on with it.
HeldStep Reserve(const StepPlan& plan, SchedulerState* state, bool* moving);

// The same while a step is in flight, of a plan whose rows are all of running sequences: nothing is preempted or moved,
// what idles may be evicted, since no row of that step uses it. All rows, or none.
std::optional<HeldStep> ReserveBehind(const StepPlan& plan, SchedulerState* state);

}  // namespace lorad
