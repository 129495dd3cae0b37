#include "scheduler/first_token.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/kv/kv_layout.h"
#include "scheduler/finish.h"
#include "scheduler/prefix_reuse.h"

namespace lorad {
namespace {

// Steps differ by what they hold; a prediction is taken for a quarter more.
constexpr int64_t kMarginDivisor = 4;

// From beginning now to its first token: `tokens` of its prompt in chunks beside what runs. 0 where nobody can tell,
// and while nothing runs: then nobody is ended by a guess, and the steps that follow put it right.
int64_t PredictUs(int64_t tokens, const SchedulerState& state) {
  if (state.running.empty()) return 0;
  const auto running = static_cast<int64_t>(state.running.size());
  const int64_t chunk = std::max<int64_t>(1, TokenBudget(state) - running);
  const int64_t whole_chunks = (tokens - 1) / chunk;
  const int64_t last_chunk = tokens - whole_chunks * chunk;
  const StepTimeModel& steps = state.step_time;
  const int64_t us =
      whole_chunks * steps.PredictUs(running + chunk).value_or(0) + steps.PredictUs(running + last_chunk).value_or(0);
  return us + us / kMarginDivisor;
}

// How long its first token would take if it began now. What the prefix cache has is looked up only where it matters.
int64_t PredictUs(const Sequence& sequence, const SchedulerState& state) {
  const int64_t us = PredictUs(sequence.prompt_tokens, state);
  const int64_t left_us = sequence.request->arrival_us + state.config.slo_first_token_us - state.parts.clock->NowUs();
  if (us <= left_us || left_us <= 0 || sequence.request->awaits_tokenizer) return us;
  return PredictUs(sequence.prompt_tokens - MatchPrefix(sequence, state).blocks * kKvBlockTokens, state);
}

// The last moment at which it may begin.
int64_t LateUs(const Sequence& sequence, const SchedulerState& state) {
  return sequence.request->arrival_us + state.config.slo_first_token_us - PredictUs(sequence, state);
}

}  // namespace

void EndLateRequests(SchedulerState* state) {
  const int64_t limit_us = state->config.slo_first_token_us;
  if (limit_us == 0) return;
  const int64_t now_us = state->parts.clock->NowUs();
  std::vector<Sequence*> late;
  for (Sequence* sequence : state->waiting) {
    if (!sequence->order.begun && now_us > LateUs(*sequence, *state)) late.push_back(sequence);
  }
  for (Sequence* sequence : late) {
    sequence->late = true;
    GiveUp(absl::ResourceExhaustedError(
               absl::StrCat("first token too late: waited ms: ", (now_us - sequence->request->arrival_us) / 1000,
                            "; would take ms: ", PredictUs(*sequence, *state) / 1000, "; limit ms: ", limit_us / 1000,
                            " (--slo-first-token); retry later")),
           sequence, state);
  }
  state->begin_rate.NoteTurn(now_us, !state->waiting.empty(), limit_us);
}

int64_t NextLateUs(const SchedulerState& state) {
  if (state.config.slo_first_token_us == 0) return -1;
  int64_t next_us = -1;
  for (const Sequence* sequence : state.waiting) {
    if (sequence->order.begun) continue;
    const int64_t late_us = LateUs(*sequence, state) + 1;
    if (next_us < 0 || late_us < next_us) next_us = late_us;
  }
  return next_us;
}

bool ServeLatestFirst(const SchedulerState& state) {
  const int64_t limit_us = state.config.slo_first_token_us;
  return limit_us > 0 && state.begin_rate.PredictUs(static_cast<int64_t>(state.waiting.size())) > limit_us / 2;
}

}  // namespace lorad
