#include "scheduler/reserve.h"

#include <algorithm>
#include <utility>

#include "model/base/check.h"
#include "model/memory/join_pages.h"
#include "scheduler/composition.h"
#include "scheduler/eviction.h"
#include "scheduler/finish.h"
#include "scheduler/prefix_reuse.h"

namespace lorad {
namespace {

// About 3 ms of memory bandwidth a turn.
constexpr int64_t kCompactBytesPerTurn = int64_t{16} << 20;
constexpr int64_t kCompactBytesPerCall = int64_t{4} << 20;

int32_t NumberOf(int64_t first_page) { return static_cast<int32_t>(first_page); }

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
  explicit Reserver(SchedulerState* state) : state_(state), block_pages_(state->pages_per_block()) {}

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
  int64_t compact_budget_bytes_ = kCompactBytesPerTurn;
  bool moving_ = false;
};

}  // namespace

std::vector<ExecRow> HeldStep::ExecRows() const {
  std::vector<ExecRow> exec_rows;
  exec_rows.reserve(rows.size());
  for (const HeldRow& held : rows) {
    const Sequence& sequence = *held.sequence;
    const absl::Span<const int32_t> tokens = sequence.tokens;
    ExecRow row;
    row.sequence = sequence.id;
    row.first_position = held.plan.first_position;
    row.token_ids = tokens.subspan(held.plan.first_position, held.plan.tokens);
    LORAD_CHECK_GE(row.first_position, (sequence.blocks.shared_blocks() + held.prefix.blocks()) * kKvBlockTokens);
    for (int64_t b = 0; b < sequence.blocks.size(); ++b) row.blocks.push_back(NumberOf(sequence.blocks.first_page(b)));
    for (int64_t b = 0; b < held.prefix.blocks(); ++b) row.blocks.push_back(NumberOf(held.prefix.first_page(b)));
    for (const PageRun& block : held.new_blocks) row.blocks.push_back(NumberOf(block.first_page()));
    for (size_t i = 0; i < sequence.adapters.size(); ++i) {
      row.terms.push_back({.slot = held.leases()[i].slot(), .scale = sequence.adapters[i].scale});
    }
    row.active_from = sequence.active_from;
    row.vocab_size = VocabularyOf(sequence.adapters);
    row.sample = held.plan.sample;
    if (sequence.request->classify) row.classes = sequence.adapters.front().version->num_labels;
    row.sampling = &sequence.sampling;
    row.prompt_ids = tokens.subspan(0, sequence.prompt_tokens);
    row.generated_ids = tokens.subspan(sequence.prompt_tokens);
    if (sequence.generated_tokens() < sequence.sampling.min_tokens) row.banned_ids = sequence.sampling.stop_token_ids;
    row.prompt_logprobs = sequence.sampling.prompt_logprobs >= 0 && !sequence.answered &&
                          held.plan.first_position < sequence.prompt_tokens;
    exec_rows.push_back(std::move(row));
  }
  return exec_rows;
}

HeldStep Reserve(const StepPlan& plan, SchedulerState* state, bool* moving) {
  for (const SequenceId id : plan.preempt) Preempt(state->sequences.at(id).get(), state);
  HeldStep held;
  Reserver reserver(state);
  // Leases first: an eviction for one row must not take the adapter or the cached blocks of another.
  for (const PlanRow& row : plan.rows) {
    HeldRow held_row{.sequence = state->sequences.at(row.sequence).get(), .plan = row};
    if (reserver.Lease(&held_row)) held.rows.push_back(std::move(held_row));
  }
  std::erase_if(held.rows, [&reserver](HeldRow& row) { return !reserver.Blocks(&row); });
  std::stable_sort(held.rows.begin(), held.rows.end(),
                   [](const HeldRow& a, const HeldRow& b) { return a.first_slot() < b.first_slot(); });
  *moving = reserver.moving();
  return held;
}

}  // namespace lorad
