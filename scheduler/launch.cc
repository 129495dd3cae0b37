#include "scheduler/launch.h"

#include <unordered_map>
#include <utility>
#include <vector>

#include "model/base/check.h"
#include "model/kv/kv_layout.h"
#include "scheduler/composition.h"
#include "scheduler/finish.h"
#include "scheduler/prefix_reuse.h"

namespace lorad {
namespace {

constexpr int32_t kUnknownToken = 0;

int32_t NumberOf(int64_t first_page) { return static_cast<int32_t>(first_page); }

void TakeMemory(HeldRow* row, SchedulerState* state) {
  Sequence* const sequence = row->sequence;
  if (!sequence->running) {
    sequence->blocks.Adopt(std::move(row->prefix));
    sequence->computed_tokens = row->plan.first_position;
    if (!sequence->order.begun) CountPrefix(row->plan.first_position, sequence, state);
    Begin(sequence, state);
  }
  for (PageRun& block : row->new_blocks) sequence->blocks.Append(std::move(block));
  row->new_blocks.clear();
  if (!row->new_leases.empty()) sequence->leases = std::exchange(row->new_leases, {});
}

// Which draw of a step each of its sequences has.
std::unordered_map<SequenceId, int64_t> DrawsOf(const HeldStep* step) {
  std::unordered_map<SequenceId, int64_t> draws;
  if (step == nullptr) return draws;
  for (const HeldRow& row : step->rows) {
    if (row.plan.sample) draws.emplace(row.plan.sequence, static_cast<int64_t>(draws.size()));
  }
  return draws;
}

// `draw`: of the step before, whose token is the row's; -1: its tokens are known.
ExecRow ExecRowOf(const PlanRow& plan, const Sequence& sequence, int64_t draw) {
  const absl::Span<const int32_t> tokens = sequence.tokens;
  ExecRow row;
  row.sequence = sequence.id;
  row.first_position = plan.first_position;
  row.from_draw = draw;
  row.token_ids = draw >= 0 ? absl::MakeConstSpan(&kUnknownToken, 1) : tokens.subspan(plan.first_position, plan.tokens);
  LORAD_CHECK_GE(row.first_position, sequence.blocks.shared_blocks() * kKvBlockTokens);
  for (int64_t b = 0; b < sequence.blocks.size(); ++b) row.blocks.push_back(NumberOf(sequence.blocks.first_page(b)));
  for (size_t i = 0; i < sequence.adapters.size(); ++i) {
    row.terms.push_back({.slot = sequence.leases[i].slot(), .scale = sequence.adapters[i].scale});
  }
  row.active_from = sequence.active_from;
  row.vocab_size = VocabularyOf(sequence.adapters);
  row.sample = plan.sample;
  if (sequence.request->classify) row.classes = sequence.adapters.front().version->num_labels;
  row.sampling = &sequence.sampling;
  row.prompt_ids = tokens.subspan(0, sequence.prompt_tokens);
  row.generated_ids = tokens.subspan(sequence.prompt_tokens);
  if (row.generated_tokens() < sequence.sampling.min_tokens) row.banned_ids = sequence.sampling.stop_token_ids;
  row.prompt_logprobs =
      sequence.sampling.prompt_logprobs >= 0 && !sequence.answered && plan.first_position < sequence.prompt_tokens;
  return row;
}

}  // namespace

Ticket LaunchStep(HeldStep* held, const HeldStep* before, SchedulerState* state) {
  const int64_t now_us = state->parts.clock->NowUs();
  const std::unordered_map<SequenceId, int64_t> draws = DrawsOf(before);
  std::vector<ExecRow> rows;
  int64_t tokens = 0;
  for (HeldRow& held_row : held->rows) {
    TakeMemory(&held_row, state);
    Sequence* const sequence = held_row.sequence;
    const PlanRow& plan = held_row.plan;
    const bool known = plan.first_position < sequence->known_tokens();
    rows.push_back(ExecRowOf(plan, *sequence, known ? -1 : draws.at(sequence->id)));
    sequence->in_flight_tokens += plan.tokens;
    tokens += plan.tokens;
    if (sequence->first_scheduled_us < 0) {
      sequence->first_scheduled_us = now_us;
      state->parts.observer->OnScheduled(now_us - sequence->request->arrival_us);
    }
  }
  return state->parts.executor->Launch(rows, state->step_time.PredictUs(tokens).value_or(0));
}

}  // namespace lorad
