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

absl::Status Withhold(int64_t wanted, SchedulerState* state) {
  bool moved_adapters = false;
  const absl::Status status =
      state->parts.pages->Withhold(wanted, [&](PageOwner owner) { moved_adapters |= owner == PageOwner::kAdapter; });
  if (moved_adapters) state->parts.adapters->RefreshAddresses();
  return status;
}

absl::Status Hold(int64_t bytes, SchedulerState* state) {
  PagePool* const pages = state->parts.pages;
  const int64_t wanted = pages->PagesFor(bytes);
  if (wanted > pages->total_pages()) {
    return absl::InvalidArgumentError(absl::StrCat("memory for training: bytes: ", bytes,
                                                   "; limit: ", pages->total_pages() * pages->page_bytes(),
                                                   "; lower the rank or raise --memory-bytes"));
  }
  while (wanted - pages->withheld_pages() > pages->free_pages() && EvictOldest(state)) {
  }
  const absl::Status status = Withhold(wanted, state);
  if (status.ok()) {
    TuningMemory& memory = state->tuning_memory;
    if (wanted < memory.pages) memory.returned_us = memory.retried_us = state->parts.clock->NowUs();
    memory.pages = wanted;
  }
  return status;
}

bool DeviceOwesPages(const SchedulerState& state) {
  return state.parts.pages->withheld_pages() > state.tuning_memory.pages;
}

}  // namespace

void ApplyTuningMemory(TuningMemoryCommand command, SchedulerState* state) {
  absl::Status status = Hold(command.bytes, state);
  if (status.ok()) {
    state->tuning_memory.kept_pages = state->parts.pages->PagesFor(command.kept_bytes);
    state->tuning_memory.give_back = std::move(command.give_back);
    state->tuning_memory.asked = false;
  }
  AnswerStatus(std::move(command.reply), std::move(status), state);
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
  memory.retried_us = now_us;
  const int64_t before = state->parts.pages->withheld_pages();
  return Withhold(memory.pages, state).ok() && state->parts.pages->withheld_pages() < before;
}

int64_t TakePagesBackInUs(const SchedulerState& state) {
  if (!DeviceOwesPages(state)) return -1;
  return std::max<int64_t>(0, state.tuning_memory.retried_us + kRetryUs - state.parts.clock->NowUs());
}

}  // namespace lorad
