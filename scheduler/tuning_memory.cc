#include "scheduler/tuning_memory.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/eviction.h"
#include "scheduler/replies.h"

namespace lorad {
namespace {

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
  return pages->Withhold(wanted);
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
  if (state->parts.pages->withheld_pages() <= memory.kept_pages) return false;
  if (!memory.asked) {
    memory.asked = true;
    state->parts.post_reply(memory.give_back);
  }
  return true;
}

}  // namespace lorad
