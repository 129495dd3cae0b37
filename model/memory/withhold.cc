// What a pool takes from those who reserve: counted in pages, and given back to the device in whole chunks. They are
// the topmost of the arena, which ends below them, so that whoever reserves or compacts sees nothing but a smaller one.
// It is done in turns: pages that are to go are closed at once, in no hole any more; then the runs that lie there are
// moved, then chunks are released from the top.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "model/base/round_up.h"
#include "model/base/status_macros.h"
#include "model/memory/page_pool.h"

namespace lorad {

absl::Status PagePool::Withhold(int64_t pages, const MovedFn& moved) {
  constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
  return Withhold(pages, {.bytes = kAny, .runs = kAny, .chunks = kAny}, moved).status();
}

absl::StatusOr<bool> PagePool::Withhold(int64_t pages, const TurnBudget& budget, const MovedFn& moved) {
  LORAD_CHECK_GE(pages, 0);
  if (pages > withheld_pages_ && pages - withheld_pages_ > free_pages()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("pages to withhold: ", pages - withheld_pages_, "; free: ", free_pages(), "; retry later"));
  }
  const int64_t end_page = EndOfArena(pages);
  if (closing_page_ == end_page_) undo_pages_ = withheld_pages_;
  if (end_page < closing_page_) CloseFrom(end_page);
  if (end_page > closing_page_) OpenTo(std::min(end_page, end_page_));
  withheld_pages_ = std::max(pages, released_pages());
  bool done = true;
  if (end_page < end_page_) {
    const absl::StatusOr<bool> cleared = Clear(budget, moved);
    if (!cleared.ok()) {
      OpenTo(end_page_);
      withheld_pages_ = std::max(undo_pages_, released_pages());
      return cleared;
    }
    if (*cleared) ReleaseFrom(std::max(end_page, ChunksFrom(end_page_, -budget.chunks)));
    done = end_page_ == end_page;
  } else if (end_page > end_page_) {
    const int64_t wanted_page = std::min(end_page, ChunksFrom(end_page_, budget.chunks));
    RestoreTo(wanted_page);
    withheld_pages_ = std::max(pages, released_pages());
    done = end_page_ == end_page || end_page_ < wanted_page;  // the device has no more
  }
  return done;
}

// A chunk of which some pages are not withheld is not released.
int64_t PagePool::EndOfArena(int64_t withheld_pages) const {
  if (chunk_pages_ == 0) return total_pages_;
  return std::min(total_pages_, RoundUp(total_pages_ - withheld_pages, chunk_pages_));
}

// So many chunks above the end of one, or below.
int64_t PagePool::ChunksFrom(int64_t page, int64_t chunks) const {
  const int64_t most = total_pages_ / chunk_pages_ + 1;
  return RoundUp(page, chunk_pages_) + std::clamp(chunks, -most, most) * chunk_pages_;
}

void PagePool::CloseFrom(int64_t page) {
  while (!holes_.empty()) {
    const auto [first_page, pages] = *holes_.rbegin();
    if (first_page + pages <= page) break;
    const int64_t from = std::max(first_page, page), closed = first_page + pages - from;
    TakeHole(from, closed);
    free_pages_ += closed;
  }
  closing_page_ = page;
  joined_pages_ = 0;
  slides_down_ = false;
}

// What is closed below `page` and in no run is a hole again.
void PagePool::OpenTo(int64_t page) {
  slides_down_ = false;
  int64_t first_page = std::exchange(closing_page_, page);
  const auto open = [&](int64_t end) {
    if (first_page >= end) return;
    GiveHole(first_page, end - first_page);
    free_pages_ -= end - first_page;  // they are counted
  };
  for (const auto& [run_first_page, id] : live_) {
    if (run_first_page >= page) break;
    open(run_first_page);
    first_page = std::max(first_page, run_first_page + runs_[id].pages);
  }
  open(page);
}

int64_t PagePool::EndOfRuns() const {
  if (live_.empty()) return 0;
  const Run& top = runs_[live_.rbegin()->second];
  return top.first_page + top.pages;
}

// True: no run reaches beyond closing_page_ any more. An error: one that cannot be moved does, or would have to make
// room.
absl::StatusOr<bool> PagePool::Clear(const TurnBudget& budget, const MovedFn& moved) {
  int64_t left_bytes = budget.bytes, left_runs = budget.runs;
  for (bool first = true; EndOfRuns() > closing_page_; first = false) {
    const std::optional<Relocation> next = NextToClear();
    if (!next.has_value()) {
      return absl::ResourceExhaustedError(absl::StrCat("pages to withhold: ", withheld_pages_ - undo_pages_,
                                                       "; in the way: an adapter that is being loaded; retry later"));
    }
    const int64_t pages = CopiedPages(*next), bytes = pages * page_bytes_;
    if (!first && (bytes > left_bytes || left_runs == 0)) return false;
    left_bytes -= bytes;
    --left_runs;
    Relocate(*next);
    moved(runs_[next->id].owner);
    if (next->swap_with >= 0) moved(runs_[next->swap_with].owner);
  }
  slides_down_ = false;
  return true;
}

// Into holes that take a run as long as there is one, else holes are joined. Where that comes to nothing, as with a run
// that lies across the border, all above the free pages slides down.
std::optional<PagePool::Relocation> PagePool::NextToClear() {
  if (!slides_down_) {
    for (auto it = live_.rbegin(); it != live_.rend(); ++it) {
      const Run& run = runs_[it->second];
      if (run.first_page + run.pages <= closing_page_) break;
      if (!run.movable) return std::nullopt;
    }
    if (const auto out = RunOutOfClosed()) return out;
    const std::optional<Relocation> joined = NextRelocation();
    if (joined.has_value() && joined_pages_ < total_pages_) {  // others may make new holes all the while
      joined_pages_ += CopiedPages(*joined);
      return joined;
    }
    slides_down_ = true;
  }
  return NextSlideDown();
}

// Each as if it was reserved now: KV from the low end, adapters from the high one.
std::optional<PagePool::Relocation> PagePool::RunOutOfClosed() const {
  for (auto it = live_.rbegin(); it != live_.rend(); ++it) {
    const Run& run = runs_[it->second];
    if (run.first_page + run.pages <= closing_page_) break;
    const auto fits = [&](const std::pair<const int64_t, int64_t>& hole) { return hole.second >= run.pages; };
    if (run.owner == PageOwner::kKv) {
      const auto hole = std::find_if(holes_.begin(), holes_.end(), fits);
      if (hole != holes_.end()) return Relocation{.id = it->second, .first_page = hole->first};
    } else {
      const auto hole = std::find_if(holes_.rbegin(), holes_.rend(), fits);
      if (hole != holes_.rend()) {
        return Relocation{.id = it->second, .first_page = hole->first + hole->second - run.pages};
      }
    }
  }
  return std::nullopt;
}

// Of the runs from the topmost down, each to lie right below the one above, the lowest: into what is free.
std::optional<PagePool::Relocation> PagePool::NextSlideDown() const {
  std::optional<Relocation> lowest;
  int64_t free_end = closing_page_;
  for (auto it = live_.rbegin(); it != live_.rend(); ++it) {
    const Run& run = runs_[it->second];
    if (run.first_page + run.pages <= free_end) break;
    if (!run.movable || run.pages > free_end) return std::nullopt;
    free_end -= run.pages;
    lowest = Relocation{.id = it->second, .first_page = free_end};
  }
  return lowest;
}

void PagePool::ReleaseFrom(int64_t end_page) {
  const int64_t pages = end_page_ - end_page;
  memory_->Release(AddressOf(end_page), pages * page_bytes_);
  end_page_ = end_page;
}

void PagePool::RestoreTo(int64_t end_page) {
  std::byte* const at = AddressOf(end_page_);
  int64_t restored_bytes = memory_->Restore(at, (end_page - end_page_) * page_bytes_);
  if (restored_bytes < (end_page - end_page_) * page_bytes_) {
    const int64_t part_bytes = restored_bytes % (chunk_pages_ * page_bytes_);  // ends within a page
    restored_bytes -= part_bytes;
    if (part_bytes > 0) memory_->Release(at + restored_bytes, part_bytes);
  }
  const int64_t pages = restored_bytes / page_bytes_, first_page = end_page_;
  if (pages == 0) return;
  end_page_ += pages;
  closing_page_ = end_page_;
  GiveHole(first_page, pages);
  free_pages_ -= pages;
}

}  // namespace lorad
