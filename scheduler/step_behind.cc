#include "scheduler/step_behind.h"

#include <algorithm>

#include "scheduler/apply.h"
#include "scheduler/first_token.h"
#include "scheduler/plan_input.h"

namespace lorad {
namespace {

bool CountsTokens(const SamplingOptions& options) {
  return options.repetition_penalty != 1.0f || options.presence_penalty != 0.0f || options.frequency_penalty != 0.0f;
}

// Of a row in flight: the sequence can go on from its token alone, whatever it is.
bool GoesOnFromToken(const Sequence& sequence, const SchedulerState& state) {
  if (!sequence.draws_in_flight()) return true;
  const RopeSwitch& rope = state.config.rope_switch;
  const int64_t tokens = sequence.known_tokens();
  return !sequence.request->classify && !CountsTokens(sequence.sampling) &&
         rope.VariantOf(tokens + 1) == rope.VariantOf(tokens);
}

bool IsDue(int64_t time_us, int64_t now_us) { return time_us >= 0 && time_us <= now_us; }

bool OnlyGoesOn(const StepPlan& plan, const SchedulerState& state) {
  return !plan.rows.empty() && plan.preempt.empty() && plan.overtaken.empty() &&
         std::all_of(plan.rows.begin(), plan.rows.end(),
                     [&](const PlanRow& row) { return state.sequences.at(row.sequence)->running; });
}

}  // namespace

std::optional<HeldStep> StepBehind(const HeldStep& in_flight, SchedulerState* state) {
  const SchedulerParts& parts = state->parts;
  if (!parts.executor->TakesStepBehind() || !parts.inbox->empty()) {
    return std::nullopt;
  }
  const int64_t now_us = parts.clock->NowUs();
  if (IsDue(NextDeadlineUs(*state), now_us) || IsDue(NextLateUs(*state), now_us)) return std::nullopt;
  if (!std::all_of(in_flight.rows.begin(), in_flight.rows.end(),
                   [&](const HeldRow& row) { return row.sequence->ended || GoesOnFromToken(*row.sequence, *state); })) {
    return std::nullopt;
  }
  const StepPlan plan = PlanStep(MakePlanInput(*state));
  return OnlyGoesOn(plan, *state) ? ReserveBehind(plan, state) : std::nullopt;
}

}  // namespace lorad
