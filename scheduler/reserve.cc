#include "scheduler/reserve.h"

#include <algorithm>
#include <utility>

#include "model/base/check.h"
#include "model/memory/join_pages.h"
#include "scheduler/eviction.h"
#include "scheduler/finish.h"
#include "scheduler/prefix_reuse.h"

namespace lorad {
namespace {

// About 3 ms of memory bandwidth a turn.
constexpr int64_t kCompactBytesPerTurn = int64_t{16} << 20;
constexpr int64_t kCompactBytesPerCall = int64_t{4} << 20;

// Joins free pages until one block fits. True: it does.
bool CompactFor(int64_t pages, int64_t* budget_bytes, bool* more, SchedulerState* state) {
  PagePool* const pool = state->parts.pages;
  const JoinedPages joined = JoinPages(pool, pages, kCompactBytesPerCall, budget_bytes);
  *more = joined.more;
  if (joined.moved_adapters) state->parts.adapters->RefreshAddresses();
  return pool->largest_free_run() >= pages;
}

class Reserver final {
 public:
  // `may_move`: others' pages, where free ones are scattered.
  Reserver(SchedulerState* state, bool may_move)
      : state_(state),
        block_pages_(state->pages_per_block()),
        compact_budget_bytes_(may_move ? kCompactBytesPerTurn : 0) {}

  bool moving() const { return moving_; }

  // The adapters of `row` and the blocks that it begins with, or false. Neither takes memory.
  bool Lease(HeldRow* row) {
    Sequence* const sequence = row->sequence;
    if (!sequence->running) row->prefix = TakePrefix(*sequence, row->plan.first_position, state_);
    if (!sequence->leases.empty()) return true;
    for (const SequenceAdapter& adapter : sequence->adapters) {
      absl::StatusOr<AdapterLease> lease = state_->parts.adapters->Acquire(adapter.version->id);
      if (!lease.ok()) return false;
      row->new_leases.push_back(*std::move(lease));
    }
    return true;
  }

  // Memory for the rest of its blocks, or false.
  bool Blocks(HeldRow* row) {
    const int64_t end = row->plan.first_position + row->plan.tokens;
    const int64_t wanted = (end + kKvBlockTokens - 1) / kKvBlockTokens;
    const int64_t there = row->sequence->blocks.size() + row->prefix.blocks();
    while (there + static_cast<int64_t>(row->new_blocks.size()) < wanted) {
      absl::StatusOr<PageRun> run = Block();
      if (!run.ok()) return false;
      row->new_blocks.push_back(*std::move(run));
    }
    return true;
  }

 private:
  absl::StatusOr<PageRun> Block() {
    PagePool* const pages = state_->parts.pages;
    while (pages->free_pages() < block_pages_ && EvictOldest(state_)) {
    }
    while (pages->free_pages() >= block_pages_ && pages->largest_free_run() < block_pages_) {
      bool more = false;
      if (CompactFor(block_pages_, &compact_budget_bytes_, &more, state_)) break;
      if (more) {
        moving_ = true;
        break;
      }
      // Scattered around runs that cannot move now: take more of what is idle.
      if (!EvictOldest(state_)) break;
    }
    return pages->Reserve(block_pages_, PageOwner::kKv);
  }

  SchedulerState* const state_;
  const int64_t block_pages_;
  int64_t compact_budget_bytes_;
  bool moving_ = false;
};

void SortBySlot(HeldStep* held) {
  std::stable_sort(held->rows.begin(), held->rows.end(),
                   [](const HeldRow& a, const HeldRow& b) { return a.first_slot() < b.first_slot(); });
}

}  // namespace

HeldStep Reserve(const StepPlan& plan, SchedulerState* state, bool* moving) {
  for (const SequenceId id : plan.preempt) Preempt(state->sequences.at(id).get(), state);
  HeldStep held;
  Reserver reserver(state, /*may_move=*/true);
  // Leases first: an eviction for one row must not take the adapter or the cached blocks of another.
  for (const PlanRow& row : plan.rows) {
    HeldRow held_row{.sequence = state->sequences.at(row.sequence).get(), .plan = row};
    if (reserver.Lease(&held_row)) held.rows.push_back(std::move(held_row));
  }
  std::erase_if(held.rows, [&reserver](HeldRow& row) { return !reserver.Blocks(&row); });
  SortBySlot(&held);
  *moving = reserver.moving();
  return held;
}

std::optional<HeldStep> ReserveBehind(const StepPlan& plan, SchedulerState* state) {
  HeldStep held;
  Reserver reserver(state, /*may_move=*/false);
  for (const PlanRow& row : plan.rows) {
    held.rows.push_back({.sequence = state->sequences.at(row.sequence).get(), .plan = row});
    LORAD_CHECK(held.rows.back().sequence->running);
    if (!reserver.Blocks(&held.rows.back())) return std::nullopt;
  }
  SortBySlot(&held);
  return held;
}

}  // namespace lorad
