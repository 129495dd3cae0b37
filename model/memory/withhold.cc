// What a pool takes from those who reserve: counted in pages, and given back to the device in whole chunks. They are
// the topmost of the arena, which ends below them, so that whoever reserves or compacts sees nothing but a smaller one.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "model/base/round_up.h"
#include "model/memory/page_pool.h"

namespace lorad {

absl::Status PagePool::Withhold(int64_t pages, const MovedFn& moved) {
  LORAD_CHECK_GE(pages, 0);
  if (pages > withheld_pages_ && pages - withheld_pages_ > free_pages()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("pages to withhold: ", pages - withheld_pages_, "; free: ", free_pages(), "; retry later"));
  }
  const int64_t end_page = EndOfArena(pages);
  if (end_page < end_page_) {
    if (!ClearFrom(end_page, moved)) {
      return absl::ResourceExhaustedError(absl::StrCat("pages to withhold: ", pages - withheld_pages_,
                                                       "; in the way: an adapter that is being loaded; retry later"));
    }
    ReleaseFrom(end_page);
  } else if (end_page > end_page_) {
    RestoreTo(end_page);
  }
  withheld_pages_ = std::max(pages, released_pages());
  return absl::OkStatus();
}

// A chunk of which some pages are not withheld is not released.
int64_t PagePool::EndOfArena(int64_t withheld_pages) const {
  if (chunk_pages_ == 0) return total_pages_;
  return std::min(total_pages_, RoundUp(total_pages_ - withheld_pages, chunk_pages_));
}

// No run reaches beyond `end_page` any more. False: one that cannot be moved does, or would have to make room.
bool PagePool::ClearFrom(int64_t end_page, const MovedFn& moved) {
  if (live_.empty() || runs_[live_.rbegin()->second].first_page + runs_[live_.rbegin()->second].pages <= end_page) {
    return true;
  }
  // One hole between the sides: then adapters alone have to move, and KV blocks, which are many, have done so once.
  Compact(std::numeric_limits<int64_t>::max(), moved);
  std::vector<std::pair<int32_t, int64_t>> places;  // id, first page: each right below the one above
  int64_t free_end = end_page;
  for (auto it = live_.rbegin(); it != live_.rend(); ++it) {
    const Run& run = runs_[it->second];
    if (run.first_page + run.pages <= free_end) break;
    if (!run.movable || run.pages > free_end) return false;
    free_end -= run.pages;
    places.emplace_back(it->second, free_end);
  }
  for (auto place = places.rbegin(); place != places.rend(); ++place) {  // the lowest first, into what is free
    RelocateRun(place->first, place->second);
    moved(runs_[place->first].owner);
  }
  return true;
}

void PagePool::ReleaseFrom(int64_t end_page) {
  const int64_t pages = end_page_ - end_page;
  TakeHole(end_page, pages);
  free_pages_ += pages;
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
  const int64_t pages = restored_bytes / page_bytes_;
  if (pages == 0) return;
  GiveHole(end_page_, pages);
  free_pages_ -= pages;
  end_page_ += pages;
}

}  // namespace lorad
