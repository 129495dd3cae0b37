#include "scheduler/commit.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "scheduler/finish.h"

namespace lorad {
namespace {

// The first prompt token has no log-probability, so entry i of the list belongs to prompt position i. After a
// preemption the same positions come again.
void GatherPromptLogprobs(const PlanRow& row, std::vector<TokenLogprob> logprobs, Sequence* sequence) {
  if (logprobs.empty()) return;
  std::vector<TokenLogprob>& all = sequence->prompt_logprobs;
  if (all.empty()) all.push_back({.token_id = sequence->tokens[0], .top = {}});
  for (size_t i = 0; i < logprobs.size(); ++i) {
    if (row.first_position + static_cast<int64_t>(i) + 1 == static_cast<int64_t>(all.size())) {
      all.push_back(std::move(logprobs[i]));
    }
  }
}

std::optional<FinishReason> EndOf(const Sequence& sequence) {
  const SamplingOptions& options = sequence.sampling;
  const auto& stop = options.stop_token_ids;
  if (sequence.generated_tokens() > options.min_tokens) {  // below it they are banned
    if (std::find(stop.begin(), stop.end(), sequence.tokens.back()) != stop.end()) return FinishReason::kStop;
  }
  if (sequence.generated_tokens() >= options.max_tokens) return FinishReason::kLength;
  return std::nullopt;
}

// With its newest token the sequence may have come to a length at which the model rotates all of it by other angles:
// its keys are worth nothing then. What waits for memory does not get what it gives back (planner: running prompts
// first).
void RestartWhereRopeSwitches(Sequence* sequence, const SchedulerState& state) {
  const RopeSwitch& rope = state.config.rope_switch;
  if (rope.VariantOf(sequence->known_tokens()) == rope.VariantOf(sequence->known_tokens() - 1)) return;
  sequence->blocks.Clear();
  sequence->computed_tokens = 0;
}

void TakeToken(TokenLogprob token, Sequence* sequence, SchedulerState* state) {
  const int64_t now_us = state->parts.clock->NowUs();
  sequence->tokens.push_back(token.token_id);
  if (sequence->first_token_us < 0) {
    sequence->first_token_us = now_us;
    state->parts.observer->OnFirstToken(now_us - sequence->request->arrival_us);
  }
  state->accounts.ChargeGenerated(1, sequence->account);
  state->parts.observer->OnToken(sequence->request->adapter, 1,
                                 sequence->last_token_us < 0 ? -1 : now_us - sequence->last_token_us);
  sequence->last_token_us = now_us;

  TokenEvent event = EventOf(*sequence);
  if (!sequence->answered) {
    // A prompt of one token has nothing to be computed for its list.
    if (sequence->sampling.prompt_logprobs >= 0 && sequence->prompt_logprobs.empty()) {
      sequence->prompt_logprobs.push_back({.token_id = sequence->tokens[0], .top = {}});
    }
    event.prompt_logprobs = std::exchange(sequence->prompt_logprobs, {});
  }
  event.tokens.push_back(std::move(token));
  sequence->answered = true;
  if (const std::optional<FinishReason> reason = EndOf(*sequence)) {
    event.finish.emplace();
    event.finish->reason = *reason;
    FinishWithEvent(std::move(event), sequence, state);
  } else {
    RestartWhereRopeSwitches(sequence, *state);
    sequence->request->sink->OnEvent(std::move(event));
  }
}

void EndClassified(std::vector<float> class_logits, Sequence* sequence, SchedulerState* state) {
  TokenEvent event = EventOf(*sequence);
  event.class_logits = std::move(class_logits);
  event.finish.emplace();
  event.finish->reason = FinishReason::kStop;
  FinishWithEvent(std::move(event), sequence, state);
}

}  // namespace

void CommitStep(const HeldStep& held, absl::StatusOr<StepResult> result, SchedulerState* state) {
  if (result.ok() && result->rows.size() != held.rows.size()) {
    result =
        absl::InternalError(absl::StrCat("rows launched: ", held.rows.size(), "; answered: ", result->rows.size()));
  }
  for (size_t i = 0; i < held.rows.size(); ++i) {
    const HeldRow& row = held.rows[i];
    Sequence* const sequence = row.sequence;
    sequence->in_flight_tokens -= row.plan.tokens;
    if (sequence->ended) {
      LetGo(sequence, state);
      continue;
    }
    sequence->computed_tokens = row.plan.first_position + row.plan.tokens;
    const absl::Status& status = result.ok() ? result->rows[i].status : result.status();
    if (!status.ok()) {
      GiveUp(status, sequence, state);
      continue;
    }
    sequence->begun = true;
    sequence->blocks.Share(sequence->tokens, sequence->computed_tokens);
    RowResult& row_result = result->rows[i];
    GatherPromptLogprobs(row.plan, std::move(row_result.prompt_logprobs), sequence);
    if (row.plan.sample) {
      LORAD_CHECK(row_result.sampled);
      if (sequence->request->classify) {
        EndClassified(std::move(row_result.class_logits), sequence, state);
      } else {
        TakeToken(std::move(row_result.token), sequence, state);
      }
    }
  }
}

}  // namespace lorad
