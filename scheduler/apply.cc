#include "scheduler/apply.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "model/base/status_macros.h"
#include "scheduler/admission.h"
#include "scheduler/composition.h"
#include "scheduler/finish.h"
#include "scheduler/lifecycle.h"
#include "scheduler/tuning_memory.h"

namespace lorad {
namespace {

AdmissionLimits LimitsOf(const SchedulerState& state) {
  return {.max_context_tokens = state.config.max_context_tokens,
          .queue_limit = state.config.queue_limit,
          .total_pages = state.parts.pages->total_pages(),
          .pages_per_block = state.pages_per_block()};
}

// The end of a sequence that was never made.
void Refuse(const absl::Status& status, const Request& request, SchedulerState* state) {
  for (int32_t index = 0; index < request.n; ++index) {
    TokenEvent event;
    event.request = request.id;
    event.index = index;
    event.adapter = AnswersAs(request);
    event.finish.emplace();
    event.finish->status = status;
    event.finish->reason = FinishReason::kAbort;
    event.finish->usage.prompt_tokens = static_cast<int64_t>(request.prompt_ids.size());
    SequenceStats stats;
    stats.adapter = request.adapter;
    stats.reason = FinishReason::kAbort;
    stats.begun = false;
    stats.code = status.code();
    stats.usage = event.finish->usage;
    stats.end_to_end_us = state->parts.clock->NowUs() - request.arrival_us;
    state->parts.observer->OnFinish(stats);
    request.sink->OnEvent(std::move(event));
    state->parts.inbox->SequenceLeftQueue();
  }
}

// Clamps what nobody asked for to what memory and context hold.
int64_t MaxTokensOf(const Request& request, int64_t adapter_pages, const AdmissionLimits& limits) {
  const int64_t max_tokens = request.sampling.max_tokens;
  if (!request.max_tokens_is_default) return max_tokens;
  const auto prompt_tokens = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t in_context = limits.max_context_tokens - prompt_tokens;
  const int64_t in_memory = TokensThatFit(adapter_pages, limits) - prompt_tokens + 1;
  return std::max<int64_t>(1, std::min({max_tokens, in_context, in_memory}));
}

// An adapter's own share of the queue; the base has no limit but the queue's.
absl::Status CheckWaitingLimit(const Request& request, const SchedulerState& state) {
  const int64_t limit = state.config.max_waiting_per_adapter;
  if (limit == 0 || request.adapter.empty()) return absl::OkStatus();
  const Account* const account = state.accounts.Find(request.adapter);
  const int64_t waiting = account == nullptr ? 0 : account->not_begun;
  if (waiting + request.n <= limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("sequences waiting for adapter ", request.adapter, ": ", waiting,
                                                   "; wanted: ", request.n, "; limit: ", limit,
                                                   "; retry later or raise --max-waiting-per-adapter"));
}

// Whether the request can run on these, as far as they and its prompt are known.
absl::Status CheckRequest(const Request& request, const SequenceAdapters& adapters, const SchedulerState& state) {
  RETURN_IF_ERROR(CheckComposable(request, adapters));
  RETURN_IF_ERROR(CheckTokenizer(request, adapters));
  RETURN_IF_ERROR(CheckIds(request, adapters, state.config.vocab_size));
  return CheckEverFits(request, PagesOf(adapters), LimitsOf(state));
}

// What follows from its request and from what is known of its adapters. It has not begun.
void TakeRequest(Sequence* sequence, SchedulerState* state) {
  const Request& request = *sequence->request;
  sequence->sampling = request.sampling;
  sequence->sampling.seed += static_cast<uint64_t>(sequence->index);
  sequence->sampling.max_tokens = MaxTokensOf(request, PagesOf(sequence->adapters), LimitsOf(*state));
  sequence->active_from = ActiveFrom(sequence->adapters, request.prompt_ids);
  if (!request.composition.empty()) sequence->composed_prefixes = ComposedPrefixes(sequence->adapters, state);
  sequence->tokens = request.prompt_ids;
  sequence->prompt_tokens = static_cast<int64_t>(request.prompt_ids.size());
}

// Tells the sink the tokenizer that its text waits for: once a request, for the first of its sequences.
void AskForPrompt(const Sequence& sequence, const SchedulerState& state) {
  if (!sequence.request->awaits_tokenizer || !sequence.adapters.front().version->known) return;
  if (state.by_request.at(sequence.request->id).front() != sequence.id) return;
  sequence.request->sink->OnTokenizer(sequence.adapters.front().version->tokenizer);
}

// The versions that a new request runs on. What was begun to load for one that is refused goes in SettleAdapters.
absl::StatusOr<SequenceAdapters> AdaptersFor(const Request& request, const std::vector<std::string>& folders,
                                             SchedulerState* state) {
  SequenceAdapters adapters;
  for (const RequestAdapter& adapter : AdaptersOf(request)) {
    const size_t i = adapters.size();
    ASSIGN_OR_RETURN(AdapterVersion* const version,
                     VersionFor(adapter.name, i < folders.size() ? folders[i] : std::string(), state));
    adapters.push_back({.version = version, .scale = adapter.scale});
  }
  RETURN_IF_ERROR(CheckRequest(request, adapters, *state));
  return adapters;
}

void ApplySubmit(SubmitCommand command, SchedulerState* state) {
  const auto request = std::make_shared<const Request>(std::move(command.request));
  if (absl::Status status = CheckWaitingLimit(*request, *state); !status.ok()) return Refuse(status, *request, state);
  absl::StatusOr<SequenceAdapters> adapters = AdaptersFor(*request, command.adapter_folders, state);
  if (!adapters.ok()) return Refuse(adapters.status(), *request, state);
  Account* const account = state->accounts.For(request->adapter);
  account->sequences += request->n;
  account->not_begun += request->n;
  for (int32_t index = 0; index < request->n; ++index) {
    auto owned = std::make_unique<Sequence>();
    Sequence* const sequence = owned.get();
    sequence->id = state->next_sequence++;
    sequence->request = request;
    sequence->index = index;
    sequence->adapters = *adapters;
    TakeRequest(sequence, state);
    sequence->account = account;
    sequence->order = {.priority = request->priority, .arrival_us = request->arrival_us, .number = sequence->id};
    for (const SequenceAdapter& adapter : sequence->adapters) {
      ++adapter.version->waiting;
      state->adapters.Touch(adapter.version);
    }
    state->by_request[request->id].push_back(sequence->id);
    state->waiting.push_back(sequence);
    state->sequences.emplace(sequence->id, std::move(owned));
    AskForPrompt(*sequence, *state);
  }
}

void ApplyPrompt(PromptCommand command, SchedulerState* state) {
  const auto found = state->by_request.find(command.request.id);
  if (found == state->by_request.end()) return;  // ended before its prompt came
  const auto request = std::make_shared<const Request>(std::move(command.request));
  const std::vector<SequenceId> ids = found->second;
  for (const SequenceId id : ids) {
    Sequence* const sequence = state->sequences.at(id).get();
    LORAD_CHECK(sequence->request->awaits_tokenizer);
    sequence->request = request;
    if (const absl::Status status = CheckRequest(*request, sequence->adapters, *state); !status.ok()) {
      GiveUp(status, sequence, state);
    } else {
      TakeRequest(sequence, state);
    }
  }
}

void ApplyCancel(const CancelCommand& command, SchedulerState* state) {
  const auto found = state->by_request.find(command.request);
  if (found == state->by_request.end()) return;  // ended before the cancel came
  const std::vector<SequenceId> ids = found->second;
  for (const SequenceId id : ids) {
    Sequence* const sequence = state->sequences.at(id).get();
    if (command.index >= 0 && sequence->index != command.index) continue;
    if (command.as_stop && sequence->begun) {
      FinishAsStop(sequence, state);
    } else {
      GiveUp(absl::CancelledError(command.reason), sequence, state);
    }
  }
}

void ApplyDrain(const DrainCommand& command, SchedulerState* state) {
  state->draining = true;
  state->drain_deadline_us = command.deadline_us;
}

std::vector<Sequence*> AllSequences(const SchedulerState& state) {
  std::vector<Sequence*> all = state.running;
  all.insert(all.end(), state.waiting.begin(), state.waiting.end());
  return all;
}

}  // namespace

void Apply(Command command, SchedulerState* state) {
  struct Visitor {
    SchedulerState* state;
    void operator()(SubmitCommand& c) const { ApplySubmit(std::move(c), state); }
    void operator()(PromptCommand& c) const { ApplyPrompt(std::move(c), state); }
    void operator()(CancelCommand& c) const { ApplyCancel(c, state); }
    void operator()(LoadCommand& c) const { ApplyLoad(std::move(c), state); }
    void operator()(UnloadCommand& c) const { ApplyUnload(std::move(c), state); }
    void operator()(PinCommand& c) const { ApplyPin(std::move(c), state); }
    void operator()(LoaderCommand& c) const { ApplyLoaderEvent(std::move(c.event), state); }
    void operator()(DrainCommand& c) const { ApplyDrain(c, state); }
    void operator()(TuningMemoryCommand& c) const { ApplyTuningMemory(std::move(c), state); }
  };
  std::visit(Visitor{state}, command);
}

void ExpireDeadlines(SchedulerState* state) {
  const int64_t now_us = state->parts.clock->NowUs();
  const bool drained = state->draining && now_us >= state->drain_deadline_us;
  for (Sequence* sequence : AllSequences(*state)) {
    const std::optional<int64_t>& deadline_us = sequence->request->deadline_us;
    if (deadline_us.has_value() && now_us >= *deadline_us) {
      GiveUp(absl::DeadlineExceededError(
                 absl::StrCat("deadline passed after ms: ", (now_us - sequence->request->arrival_us) / 1000,
                              "; tokens generated: ", sequence->generated_tokens())),
             sequence, state);
    } else if (drained) {
      GiveUp(absl::UnavailableError("the daemon is shutting down"), sequence, state);
    }
  }
}

int64_t NextDeadlineUs(const SchedulerState& state) {
  int64_t next_us = state.draining && !state.sequences.empty() ? state.drain_deadline_us : -1;
  for (const Sequence* sequence : AllSequences(state)) {
    const std::optional<int64_t>& deadline_us = sequence->request->deadline_us;
    if (deadline_us.has_value() && (next_us < 0 || *deadline_us < next_us)) next_us = *deadline_us;
  }
  return next_us;
}

void RefuseThoseThatNeverFit(AdapterVersion* version, SchedulerState* state) {
  for (Sequence* sequence : std::vector<Sequence*>(state->waiting)) {
    if (!sequence->RunsOn(version) || sequence->order.begun) continue;
    if (const absl::Status status = CheckRequest(*sequence->request, sequence->adapters, *state); !status.ok()) {
      GiveUp(status, sequence, state);
      continue;
    }
    TakeRequest(sequence, state);
    if (sequence->adapters.front().version == version) AskForPrompt(*sequence, *state);
  }
}

}  // namespace lorad
