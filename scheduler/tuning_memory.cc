#include "scheduler/tuning_memory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/eviction.h"
#include "scheduler/replies.h"

namespace lorad {
namespace {

constexpr int64_t kRetryUs = 1'000'000;      // each try costs steps what LibTorch keeps for them
constexpr int64_t kMostWaitUs = 10'000'000;  // for what a device does not give back: others may use it too
// A millisecond or two between two steps: a run that is moved waits for the device, a chunk is two calls of its
// driver's. Not measured yet.
constexpr PagePool::TurnBudget kTurn = {.bytes = int64_t{64} << 20, .runs = 32, .chunks = 16};

absl::StatusOr<bool> Withhold(int64_t wanted, SchedulerState* state) {
  bool moved_adapters = false;
  absl::StatusOr<bool> done = state->parts.pages->Withhold(
      wanted, kTurn, [&](PageOwner owner) { moved_adapters |= owner == PageOwner::kAdapter; });
  if (moved_adapters) state->parts.adapters->RefreshAddresses();
  return done;
}

void Settle(TuningMemoryCommand command, absl::Status status, SchedulerState* state) {
  if (status.ok()) {
    TuningMemory& memory = state->tuning_memory;
    memory.pages = state->parts.pages->PagesFor(command.bytes);
    memory.kept_pages = state->parts.pages->PagesFor(command.kept_bytes);
    memory.give_back = std::move(command.give_back);
    memory.asked = false;
  }
  AnswerStatus(std::move(command.reply), std::move(status), state);
}

bool DeviceOwesPages(const SchedulerState& state) {
  const TuningMemory& memory = state.tuning_memory;
  return !memory.growing.has_value() && state.parts.pages->withheld_pages() > memory.pages;
}

}  // namespace

// The turn that follows begins with it. What is given back is no longer the answer's business: TakePagesBack does that.
void ApplyTuningMemory(TuningMemoryCommand command, SchedulerState* state) {
  EndTuningMemory(absl::ResourceExhaustedError("memory for training: asked for anew; retry later"), state);
  TuningMemory& memory = state->tuning_memory;
  PagePool* const pages = state->parts.pages;
  const int64_t wanted = pages->PagesFor(command.bytes);
  if (wanted > pages->total_pages()) {
    const absl::Status never = absl::InvalidArgumentError(absl::StrCat(
        "memory for training: bytes: ", command.bytes, "; limit: ", pages->total_pages() * pages->page_bytes(),
        "; lower the rank or raise --memory-bytes"));
    return Settle(std::move(command), never, state);
  }
  if (wanted < memory.pages) {
    memory.returned_us = state->parts.clock->NowUs();
    memory.retried_us = memory.returned_us - kRetryUs;
    return Settle(std::move(command), absl::OkStatus(), state);
  }
  while (wanted - pages->withheld_pages() > pages->free_pages() && EvictOldest(state)) {
  }
  memory.growing = std::move(command);
}

bool GoOnHoldingMemory(SchedulerState* state) {
  std::optional<TuningMemoryCommand>& growing = state->tuning_memory.growing;
  if (!growing.has_value()) return false;
  const absl::StatusOr<bool> done = Withhold(state->parts.pages->PagesFor(growing->bytes), state);
  if (done.ok() && !*done) return true;
  TuningMemoryCommand command = *std::exchange(growing, std::nullopt);
  Settle(std::move(command), done.status(), state);
  return true;
}

void EndTuningMemory(const absl::Status& why, SchedulerState* state) {
  std::optional<TuningMemoryCommand> growing = std::exchange(state->tuning_memory.growing, std::nullopt);
  if (!growing.has_value()) return;
  (void)Withhold(state->tuning_memory.pages, state);  // as before
  state->tuning_memory.retried_us = state->parts.clock->NowUs() - kRetryUs;
  Settle(*std::move(growing), why, state);
}

bool AskTuningForMemory(SchedulerState* state) {
  TuningMemory& memory = state->tuning_memory;
  if (memory.pages <= memory.kept_pages) {
    return DeviceOwesPages(*state) && state->parts.clock->NowUs() < memory.returned_us + kMostWaitUs;
  }
  if (!memory.asked) {
    memory.asked = true;
    state->parts.post_reply(memory.give_back);
  }
  return true;
}

bool TakePagesBack(SchedulerState* state) {
  TuningMemory& memory = state->tuning_memory;
  const int64_t now_us = state->parts.clock->NowUs();
  if (!DeviceOwesPages(*state) || now_us < memory.retried_us + kRetryUs) return false;
  const int64_t before = state->parts.pages->withheld_pages();
  const bool more = Withhold(memory.pages, state).ok() && state->parts.pages->withheld_pages() < before;
  memory.retried_us = more ? now_us - kRetryUs : now_us;  // where some came, the rest may come at once
  return more;
}

int64_t TakePagesBackInUs(const SchedulerState& state) {
  if (!DeviceOwesPages(state)) return -1;
  return std::max<int64_t>(0, state.tuning_memory.retried_us + kRetryUs - state.parts.clock->NowUs());
}

}  // namespace lorad
