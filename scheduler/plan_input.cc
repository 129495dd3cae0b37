#include "scheduler/plan_input.h"

#include "scheduler/eviction.h"
#include "scheduler/prefix_reuse.h"
#include "scheduler/wanted_versions.h"

namespace lorad {
namespace {

// Logits of every prompt position are large: a row that needs them is short.
constexpr int64_t kPromptLogprobRowTokens = 64;

PlanSequence PlanViewOf(const Sequence& sequence) {
  PlanSequence view;
  view.id = sequence.id;
  view.computed_tokens = sequence.computed_tokens + sequence.in_flight_tokens;
  view.known_tokens = sequence.known_tokens() + (sequence.draws_in_flight() ? 1 : 0);
  view.blocks = sequence.blocks.size();
  view.sole_blocks = sequence.blocks.sole_blocks();
  if (sequence.sampling.prompt_logprobs >= 0 && !sequence.answered) view.row_limit_tokens = kPromptLogprobRowTokens;
  for (const SequenceAdapter& adapter : sequence.adapters) view.adapters.push_back({.id = adapter.version->id});
  view.account = sequence.request->adapter.empty() ? 0 : sequence.account->id;
  view.overtaken = sequence.overtaken;
  return view;
}

void AddPrefix(const PrefixMatch& match, PlanSequence* view) {
  view->computed_tokens = match.blocks * kKvBlockTokens;
  view->blocks = match.blocks;
  view->idle_blocks = match.idle_blocks;
  view->next_block = match.next_block;
}

// Whatever the step in flight draws for it.
bool EndsWithStepInFlight(const Sequence& sequence) {
  return sequence.draws_in_flight() &&
         (sequence.request->classify || sequence.generated_tokens() + 1 >= sequence.sampling.max_tokens);
}

}  // namespace

PlanInput MakePlanInput(const SchedulerState& state) {
  const EngineConfig& config = state.config;
  PlanInput input;
  for (const Sequence* sequence : state.running) {
    if (EndsWithStepInFlight(*sequence)) continue;
    input.running.push_back(PlanViewOf(*sequence));
    // One that goes in short rows would keep others waiting for longer than they take themselves.
    PlanSequence& view = input.running.back();
    if (view.row_limit_tokens == 0) view.next_block = sequence->blocks.NextBlock(sequence->tokens);
  }
  // Of thousands who wait, those far behind will not begin in this step; none will without a seat.
  const bool seats = config.max_sequences > static_cast<int64_t>(state.running.size());
  int64_t lookups = seats ? 2 * config.max_sequences : 0;
  for (const Sequence* sequence : state.waiting) {
    PlanSequence view = PlanViewOf(*sequence);
    view.readiness = ReadinessOf(*sequence);
    for (size_t i = 0; i < sequence->adapters.size(); ++i) {
      const AdapterVersion& adapter = *sequence->adapters[i].version;
      const bool placed = adapter.running > 0 || adapter.pinned || adapter.phase == WantedPhase::kPacking;
      if (!placed) view.adapters[i].idle_pages = adapter.pages;
    }
    if (view.readiness == AdapterReadiness::kReady && lookups-- > 0) AddPrefix(MatchPrefix(*sequence, state), &view);
    input.waiting.push_back(view);
  }
  input.token_budget = TokenBudget(state);
  input.max_sequences = config.max_sequences;
  input.available_pages = AvailablePages(state);
  input.pages_per_block = state.pages_per_block();
  input.watermark_pages = WatermarkPages(state);
  input.max_overtakes = config.max_overtakes;
  input.max_running_per_account = config.max_running_per_adapter;
  input.may_keep_seat = MayKeepSeat(state);
  return input;
}

}  // namespace lorad
