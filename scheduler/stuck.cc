#include "scheduler/stuck.h"

#include "absl/strings/str_cat.h"
#include "model/kv/kv_layout.h"
#include "scheduler/eviction.h"
#include "scheduler/finish.h"
#include "scheduler/tuning_memory.h"
#include "scheduler/wanted_versions.h"

namespace lorad {
namespace {

absl::Status NoMemoryLeft(const Sequence& sequence, int64_t wanted_pages, const SchedulerState& state) {
  const PagePool& pages = *state.parts.pages;
  return absl::ResourceExhaustedError(
      absl::StrCat("pages for tokens: ", sequence.known_tokens(), " and their adapters: ", wanted_pages,
                   "; free: ", pages.free_pages(), "; idle adapters hold: ", state.parts.adapters->evictable_pages(),
                   "; limit: ", pages.total_pages(), "; the rest is pinned; unpin adapters or raise --memory-bytes"));
}

}  // namespace

bool FailHeadIfStuck(SchedulerState* state) {
  for (const AdapterVersion* version : state->adapters.Watched()) {
    if (version->phase == WantedPhase::kPacking) return false;  // evictable once it is packed
  }
  const int64_t block_pages = state->pages_per_block();
  if (!state->running.empty()) {
    if (AskTuningForMemory(state)) return false;
    Sequence* const first = state->running.front();
    GiveUp(NoMemoryLeft(*first, (first->blocks.size() + 1) * block_pages, *state), first, state);
    return true;
  }
  const int64_t room_pages = AvailablePages(*state);
  for (Sequence* sequence : state->waiting) {
    const AdapterReadiness readiness = ReadinessOf(*sequence);
    const bool reading = readiness == AdapterReadiness::kReading || readiness == AdapterReadiness::kHanging;
    if (reading) continue;  // it does not stand in the way
    const int64_t blocks = (sequence->known_tokens() + kKvBlockTokens - 1) / kKvBlockTokens;
    int64_t wanted_pages = blocks * block_pages;
    for (const SequenceAdapter& adapter : sequence->adapters) {
      // What is there and pinned takes none of the room.
      const bool there = adapter.version->phase == WantedPhase::kResident && adapter.version->pinned;
      if (!there) wanted_pages += adapter.version->pages;
    }
    if (wanted_pages <= room_pages) return false;  // its read has not begun, or its pages are being joined
    if (AskTuningForMemory(state)) return false;
    GiveUp(NoMemoryLeft(*sequence, wanted_pages, *state), sequence, state);
    return true;
  }
  return false;
}

}  // namespace lorad
