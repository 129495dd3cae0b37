// Joining the free pages of a pool. Every relocation takes KV down or adapters up, so that compaction ends; without
// immovable runs it ends with a single hole between the two sides.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "model/base/check.h"
#include "model/memory/page_pool.h"

namespace lorad {

bool PagePool::Compact(int64_t max_bytes, const MovedFn& moved) {
  int64_t left_bytes = max_bytes;
  std::optional<Relocation> next = NextRelocation();
  for (bool first = true; next.has_value(); first = false) {
    const int64_t bytes = CopiedPages(*next) * page_bytes_;
    if (!first && bytes > left_bytes) return true;
    left_bytes -= bytes;
    Relocate(*next);
    moved(runs_[next->id].owner);
    if (next->swap_with >= 0) moved(runs_[next->swap_with].owner);
    next = NextRelocation();
  }
  return false;
}

std::optional<PagePool::Relocation> PagePool::NextRelocation() const {
  if (holes_.size() < 2 || slides_down_) return std::nullopt;
  // The cheap moves first: they copy each run once, past whatever lies between.
  if (auto found = KvIntoLowestHole()) return found;
  if (auto found = AdapterIntoHighestHole()) return found;
  if (auto found = SlideIntoHole()) return found;
  return SwapAdapterWithKvAbove();
}

// The topmost KV run alone: KV runs are of one size, so what does not take it takes none below it.
std::optional<PagePool::Relocation> PagePool::KvIntoLowestHole() const {
  for (auto it = live_.rbegin(); it != live_.rend(); ++it) {
    const Run& run = runs_[it->second];
    if (run.owner != PageOwner::kKv || !run.movable) continue;
    for (const auto& [first_page, pages] : holes_) {
      if (first_page > run.first_page) break;
      if (pages >= run.pages) return Relocation{.id = it->second, .first_page = first_page};
    }
    break;
  }
  return std::nullopt;
}

std::optional<PagePool::Relocation> PagePool::AdapterIntoHighestHole() const {
  // Largest hole at or above each: most adapters fit into none, and that is to be told without a walk over the holes.
  std::vector<std::pair<int64_t, int64_t>> largest_from(holes_.begin(), holes_.end());
  for (size_t i = largest_from.size() - 1; i > 0; --i) {
    largest_from[i - 1].second = std::max(largest_from[i - 1].second, largest_from[i].second);
  }
  for (const auto& [run_first_page, id] : live_) {
    const Run& run = runs_[id];
    if (run.owner != PageOwner::kAdapter || !run.movable) continue;
    const auto above = std::upper_bound(largest_from.begin(), largest_from.end(), std::pair(run_first_page, INT64_MAX));
    if (above == largest_from.end()) break;
    if (above->second < run.pages) continue;
    auto hole = holes_.rbegin();
    while (hole->second < run.pages) ++hole;
    return Relocation{.id = id, .first_page = hole->first + hole->second - run.pages};
  }
  return std::nullopt;
}

std::optional<PagePool::Relocation> PagePool::SlideIntoHole() const {
  for (const auto& [first_page, pages] : holes_) {
    const auto above = live_.find(first_page + pages);
    if (above != live_.end()) {
      const Run& run = runs_[above->second];
      if (run.owner == PageOwner::kKv && run.movable) return Relocation{.id = above->second, .first_page = first_page};
    }
    const auto after = live_.lower_bound(first_page);
    if (after != live_.begin()) {
      const auto [below_first_page, id] = *std::prev(after);
      const Run& run = runs_[id];
      if (run.owner == PageOwner::kAdapter && run.movable) {
        return Relocation{.id = id, .first_page = below_first_page + pages};
      }
    }
  }
  return std::nullopt;
}

std::optional<PagePool::Relocation> PagePool::SwapAdapterWithKvAbove() const {
  for (auto lower = live_.begin(); lower != live_.end(); ++lower) {
    const auto upper = std::next(lower);
    if (upper == live_.end()) break;
    const Run& adapter = runs_[lower->second];
    const Run& kv = runs_[upper->second];
    if (adapter.owner != PageOwner::kAdapter || kv.owner != PageOwner::kKv || !adapter.movable || !kv.movable) continue;
    if (adapter.first_page + adapter.pages != kv.first_page || kv.first_page + kv.pages > closing_page_) continue;
    return Relocation{.id = upper->second, .first_page = adapter.first_page, .swap_with = lower->second};
  }
  return std::nullopt;
}

int64_t PagePool::CopiedPages(const Relocation& relocation) const {
  const int64_t swapped = relocation.swap_with >= 0 ? runs_[relocation.swap_with].pages : 0;
  return runs_[relocation.id].pages + swapped;
}

void PagePool::Relocate(const Relocation& relocation) {
  if (relocation.swap_with >= 0) return SwapRuns(relocation.swap_with, relocation.id);
  RelocateRun(relocation.id, relocation.first_page);
}

// To free pages, of which some may be its own.
void PagePool::RelocateRun(int32_t id, int64_t first_page) {
  Run& run = runs_[id];
  LORAD_CHECK(run.movable);
  const int64_t from = run.first_page;
  live_.erase(from);
  GiveHole(from, run.pages);
  TakeHole(first_page, run.pages);
  memory_->Move(AddressOf(first_page), AddressOf(from), run.pages * page_bytes_);
  if (run.owner == PageOwner::kAdapter) {
    const int64_t left_pages = std::min(run.pages, std::abs(first_page - from));  // the two places may overlap
    GiveBackToSystem(first_page > from ? from : from + run.pages - left_pages, left_pages);
  }
  run.first_page = first_page;
  live_[first_page] = id;
}

void PagePool::SwapRuns(int32_t lower_id, int32_t upper_id) {
  Run& lower = runs_[lower_id];
  Run& upper = runs_[upper_id];
  memory_->Swap(AddressOf(lower.first_page), lower.pages * page_bytes_, upper.pages * page_bytes_);
  live_.erase(lower.first_page);
  live_.erase(upper.first_page);
  upper.first_page = lower.first_page;
  lower.first_page = upper.first_page + upper.pages;
  live_[upper.first_page] = upper_id;
  live_[lower.first_page] = lower_id;
}

}  // namespace lorad
