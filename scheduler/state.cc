#include "scheduler/state.h"

#include <algorithm>

#include "model/base/check.h"

namespace lorad {

int64_t TokenBudget(const SchedulerState& state) {
  // A decode step that is as slow as the target still takes some of a prompt along.
  constexpr int64_t kLeastPrefillTokens = 16;
  const auto running = static_cast<int64_t>(state.running.size());
  return std::max(running, state.step_time.TokensFor(state.config.target_step_us, running + kLeastPrefillTokens,
                                                     state.config.max_batch_tokens));
}

int64_t WatermarkPages(const SchedulerState& state) {
  constexpr int64_t kDivisor = 50;
  return state.parts.pages->total_pages() / kDivisor;
}

void InsertInOrder(Sequence* sequence, std::vector<Sequence*>* list) {
  const auto place = std::upper_bound(list->begin(), list->end(), sequence, [](const Sequence* a, const Sequence* b) {
    return CameBefore(a->order, b->order);
  });
  list->insert(place, sequence);
}

void EraseFrom(Sequence* sequence, std::vector<Sequence*>* list) {
  const auto place = std::find(list->begin(), list->end(), sequence);
  LORAD_CHECK(place != list->end());
  list->erase(place);
}

}  // namespace lorad
