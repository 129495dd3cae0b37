#include "scheduler/eviction.h"

#include <vector>

#include "model/base/check.h"

namespace lorad {
namespace {

// Stamps of last use; -1: there is nothing of that side.
bool BlockGoesFirst(int64_t block_use, int64_t adapter_use) {
  return block_use >= 0 && (adapter_use < 0 || block_use < adapter_use);
}

}  // namespace

int64_t AvailablePages(const SchedulerState& state) {
  return state.parts.pages->free_pages() + state.parts.adapters->evictable_pages() + state.prefix_cache->idle_pages();
}

bool EvictOldest(SchedulerState* state) {
  AdapterPool* const adapters = state->parts.adapters;
  PrefixCache* const cache = state->prefix_cache.get();
  if (BlockGoesFirst(cache->oldest_use(), adapters->oldest_use())) return cache->EvictOldest();
  return !adapters->EvictUntilFree(state->parts.pages->free_pages() + 1).empty();
}

void EvictUntilFree(int64_t pages, const std::unordered_set<AdapterId>& spared, SchedulerState* state) {
  PrefixCache* const cache = state->prefix_cache.get();
  std::vector<IdleAdapter> idle = state->parts.adapters->Idle();
  std::erase_if(idle, [&spared](const IdleAdapter& adapter) { return spared.contains(adapter.id); });
  for (auto oldest = idle.begin(); state->parts.pages->free_pages() < pages;) {
    if (BlockGoesFirst(cache->oldest_use(), oldest == idle.end() ? -1 : oldest->last_use)) {
      cache->EvictOldest();
    } else if (oldest != idle.end()) {
      state->parts.adapters->Evict(oldest->id);
      ++oldest;
    } else {
      return;
    }
  }
}

}  // namespace lorad
