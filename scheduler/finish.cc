#include "scheduler/finish.h"

#include <algorithm>
#include <utility>

#include "model/base/check.h"
#include "scheduler/composition.h"

namespace lorad {
namespace {

const std::string& AccountNameOf(const Sequence& sequence) { return sequence.request->adapter; }

void TellObserver(const Finish& finish, const Sequence& sequence, SchedulerState* state) {
  const int64_t arrival_us = sequence.request->arrival_us;
  SequenceStats stats;
  stats.adapter = AccountNameOf(sequence);
  stats.reason = finish.reason;
  stats.begun = finish.status.ok();
  stats.code = finish.status.code();
  stats.late = sequence.late;
  stats.usage = finish.usage;
  if (sequence.first_scheduled_us >= 0) stats.queue_us = sequence.first_scheduled_us - arrival_us;
  if (sequence.first_token_us >= 0) stats.first_token_us = sequence.first_token_us - arrival_us;
  stats.end_to_end_us = state->parts.clock->NowUs() - arrival_us;
  state->parts.observer->OnFinish(stats);
}

void GiveBackMemory(Sequence* sequence) {
  sequence->blocks.Clear();
  sequence->leases.clear();
}

void Forget(Sequence* sequence, SchedulerState* state) {
  const auto request = state->by_request.find(sequence->request->id);
  LORAD_CHECK(request != state->by_request.end());
  std::erase(request->second, sequence->id);
  if (request->second.empty()) state->by_request.erase(request);
  auto forgotten = state->sequences.extract(sequence->id);
  if (sequence->in_flight_tokens == 0) return;
  sequence->ended = true;
  state->ended.push_back(std::move(forgotten.mapped()));
}

}  // namespace

TokenEvent EventOf(const Sequence& sequence) {
  TokenEvent event;
  event.request = sequence.request->id;
  event.index = sequence.index;
  if (!sequence.answered) {
    event.adapter = AnswersAs(*sequence.request);
    event.cached_tokens = sequence.cached_tokens;
  }
  return event;
}

void FinishWithEvent(TokenEvent event, Sequence* sequence, SchedulerState* state) {
  LORAD_CHECK(event.finish.has_value());
  event.finish->usage.prompt_tokens = sequence->prompt_tokens;
  event.finish->usage.completion_tokens = sequence->generated_tokens();
  event.finish->usage.cached_tokens = sequence->cached_tokens;
  TellObserver(*event.finish, *sequence, state);
  sequence->request->sink->OnEvent(std::move(event));

  if (sequence->in_flight_tokens == 0) GiveBackMemory(sequence);
  for (const SequenceAdapter& adapter : sequence->adapters) {
    --(sequence->running ? adapter.version->running : adapter.version->waiting);
    state->adapters.Touch(adapter.version);
  }
  EraseFrom(sequence, sequence->running ? &state->running : &state->waiting);
  Account* const account = sequence->account;
  --account->sequences;
  if (sequence->running) --account->running;
  if (!sequence->order.begun) {
    --account->not_begun;
    state->parts.inbox->SequenceLeftQueue();
  }
  Forget(sequence, state);
}

void LetGo(Sequence* sequence, SchedulerState* state) {
  if (sequence->in_flight_tokens > 0) return;
  GiveBackMemory(sequence);
  std::erase_if(state->ended, [sequence](const auto& owned) { return owned.get() == sequence; });
}

void GiveUp(const absl::Status& status, Sequence* sequence, SchedulerState* state) {
  TokenEvent event = EventOf(*sequence);
  event.finish.emplace();
  event.finish->reason = FinishReason::kAbort;
  if (sequence->begun && !sequence->request->classify) {
    event.finish->abort_detail = std::string(status.message());
  } else {
    event.finish->status = status;
  }
  FinishWithEvent(std::move(event), sequence, state);
}

void FinishAsStop(Sequence* sequence, SchedulerState* state) {
  TokenEvent event = EventOf(*sequence);
  event.finish.emplace();
  event.finish->reason = FinishReason::kStop;
  FinishWithEvent(std::move(event), sequence, state);
}

void Preempt(Sequence* sequence, SchedulerState* state) {
  LORAD_CHECK(sequence->running && sequence->in_flight_tokens == 0);
  EraseFrom(sequence, &state->running);
  GiveBackMemory(sequence);
  sequence->computed_tokens = 0;
  sequence->running = false;
  state->waiting.push_back(sequence);
  --sequence->account->running;
  for (const SequenceAdapter& adapter : sequence->adapters) {
    --adapter.version->running;
    ++adapter.version->waiting;
    state->adapters.Touch(adapter.version);
  }
  state->parts.observer->OnPreempted(AccountNameOf(*sequence));
}

void Begin(Sequence* sequence, SchedulerState* state) {
  LORAD_CHECK(!sequence->running);
  EraseFrom(sequence, &state->waiting);
  if (!sequence->order.begun) {
    sequence->order.begun = true;
    --sequence->account->not_begun;
    state->begin_rate.NoteBegin();
    state->accounts.ChargeToBegin(sequence->prompt_tokens, sequence->account);
    state->parts.inbox->SequenceLeftQueue();
  }
  sequence->running = true;
  ++sequence->account->running;
  InsertInOrder(sequence, &state->running);
  for (const SequenceAdapter& adapter : sequence->adapters) {
    --adapter.version->waiting;
    ++adapter.version->running;
    state->adapters.Touch(adapter.version);
  }
}

}  // namespace lorad
