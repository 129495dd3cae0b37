#include "scheduler/run_steps.h"

#include <algorithm>
#include <optional>
#include <unordered_set>
#include <utility>

#include "scheduler/commit.h"
#include "scheduler/launch.h"
#include "scheduler/step_behind.h"

namespace lorad {
namespace {

// What comes by time alone, such as a read that hangs, is looked at in turns.
constexpr int64_t kMostUs = 1'000'000;

struct InFlight {
  HeldStep held;
  StepStats stats;
  Ticket ticket = 0;
};

StepStats StatsOf(const HeldStep& held) {
  StepStats stats;
  std::unordered_set<int32_t> slots;
  for (const HeldRow& row : held.rows) {
    stats.rows_tokens += row.plan.tokens;
    const int64_t prompt_left = row.sequence->prompt_tokens - row.plan.first_position;
    stats.prefill_tokens += std::clamp<int64_t>(prompt_left, 0, row.plan.tokens);
    for (const AdapterLease& lease : row.leases()) slots.insert(lease.slot());
  }
  stats.sequences = static_cast<int64_t>(held.rows.size());
  stats.distinct_adapters = static_cast<int64_t>(slots.size());
  return stats;
}

InFlight Launch(HeldStep held, const HeldStep* before, int64_t planned_from_us, SchedulerState* state) {
  InFlight step;
  step.held = std::move(held);
  step.stats = StatsOf(step.held);
  step.stats.behind = before != nullptr;
  step.stats.plan_us = state->parts.clock->NowUs() - planned_from_us;
  step.ticket = LaunchStep(&step.held, before, state);
  return step;
}

// Whether an end may be what somebody waits for: a seat, pages, an adapter that can go. A turn sees to that, with
// nothing in flight. Commands, deadlines and training are StepBehind's.
bool RoomIsWanted(const SchedulerState& state) { return !state.waiting.empty() || !state.adapters.IsQuiet(); }

// True: no sequence ended with it.
bool Commit(InFlight step, SchedulerState* state) {
  absl::StatusOr<StepResult> result = state->parts.executor->Wait(step.ticket);
  const int64_t commit_us = state->parts.clock->NowUs();
  if (result.ok()) {
    step.stats.execute_us = result->execute_us;
    step.stats.device = result->device;
    // A capture takes many times as long as the same step from then on.
    if (result->device.how != "captured") state->step_time.Observe(step.stats.rows_tokens, result->execute_us);
  }
  const size_t sequences = state->sequences.size();
  CommitStep(step.held, std::move(result), state);
  step.stats.commit_us = state->parts.clock->NowUs() - commit_us;
  state->parts.observer->OnStep(step.stats);
  return state->sequences.size() == sequences;
}

}  // namespace

void RunSteps(HeldStep first, int64_t planned_from_us, int64_t most_steps, SchedulerState* state,
              const std::function<void()>& committed) {
  std::optional<InFlight> running = Launch(std::move(first), /*before=*/nullptr, planned_from_us, state);
  for (int64_t steps = 1; running.has_value(); ++steps) {
    std::optional<InFlight> next;
    const int64_t now_us = state->parts.clock->NowUs();
    if (steps < most_steps && now_us - planned_from_us < kMostUs) {
      if (std::optional<HeldStep> behind = StepBehind(running->held, state)) {
        next = Launch(*std::move(behind), &running->held, now_us, state);
      }
    }
    if (!Commit(*std::move(running), state) && RoomIsWanted(*state)) most_steps = 0;
    committed();
    running = std::move(next);
  }
}

}  // namespace lorad
