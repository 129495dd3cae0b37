#include "model/memory/page_pool.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

// Vector loads of kernels and the layouts inside a run count on this.
constexpr int64_t kAlignmentBytes = 64;

absl::Status CheckSizes(int64_t capacity_bytes, int64_t page_bytes) {
  if (page_bytes <= 0 || page_bytes % kAlignmentBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("page size in bytes: ", page_bytes, "; must be a positive multiple of ", kAlignmentBytes));
  }
  if (capacity_bytes < page_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("memory for KV and adapters in bytes: ", capacity_bytes,
                                                   "; at least one page: ", page_bytes, "; raise --memory-bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

PageRun::PageRun(PageRun&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}

PageRun& PageRun::operator=(PageRun&& other) noexcept {
  if (this != &other) {
    if (pool_ != nullptr) pool_->Free(id_);
    pool_ = std::exchange(other.pool_, nullptr);
    id_ = other.id_;
  }
  return *this;
}

PageRun::~PageRun() {
  if (pool_ != nullptr) pool_->Free(id_);
}

int64_t PageRun::first_page() const {
  LORAD_CHECK(!empty());
  return pool_->runs_[id_].first_page;
}

int64_t PageRun::pages() const {
  LORAD_CHECK(!empty());
  return pool_->runs_[id_].pages;
}

std::byte* PageRun::data() const { return pool_->AddressOf(first_page()); }

void PageRun::SetMovable(bool movable) {
  LORAD_CHECK(!empty());
  pool_->runs_[id_].movable = movable;
}

absl::StatusOr<std::unique_ptr<PagePool>> PagePool::Create(int64_t capacity_bytes, int64_t page_bytes) {
  RETURN_IF_ERROR(CheckSizes(capacity_bytes, page_bytes));
  ASSIGN_OR_RETURN(std::unique_ptr<PoolMemory> memory, MapHostMemory(capacity_bytes / page_bytes * page_bytes));
  return Create(std::move(memory), page_bytes);
}

absl::StatusOr<std::unique_ptr<PagePool>> PagePool::Create(std::unique_ptr<PoolMemory> memory, int64_t page_bytes) {
  RETURN_IF_ERROR(CheckSizes(memory->bytes(), page_bytes));
  return std::unique_ptr<PagePool>(new PagePool(std::move(memory), page_bytes));
}

PagePool::PagePool(std::unique_ptr<PoolMemory> memory, int64_t page_bytes)
    : memory_(std::move(memory)),
      page_bytes_(page_bytes),
      total_pages_(memory_->bytes() / page_bytes),
      chunk_pages_(std::lcm(memory_->chunk_bytes(), page_bytes) / page_bytes),
      end_page_(total_pages_),
      closing_page_(total_pages_),
      free_pages_(total_pages_) {
  holes_[0] = total_pages_;
}

PagePool::~PagePool() {
  LORAD_CHECK(live_.empty());  // a run would free itself into a pool that is gone
}

absl::StatusOr<PageRun> PagePool::Reserve(int64_t pages, PageOwner owner) {
  LORAD_CHECK_GT(pages, 0);
  const auto fits = [pages](const std::pair<const int64_t, int64_t>& hole) { return hole.second >= pages; };
  int64_t first_page = -1;
  if (pages <= free_pages() && owner == PageOwner::kKv) {
    const auto hole = std::find_if(holes_.begin(), holes_.end(), fits);
    if (hole != holes_.end()) first_page = hole->first;
  } else if (pages <= free_pages()) {
    const auto hole = std::find_if(holes_.rbegin(), holes_.rend(), fits);
    if (hole != holes_.rend()) first_page = hole->first + hole->second - pages;
  }
  if (first_page < 0) {
    return absl::ResourceExhaustedError(absl::StrCat("no free run of pages; wanted: ", pages, "; free: ", free_pages(),
                                                     "; largest hole: ", largest_free_run(), "; retry later"));
  }
  TakeHole(first_page, pages);
  int32_t id = static_cast<int32_t>(runs_.size());
  if (dead_ids_.empty()) {
    runs_.emplace_back();
  } else {
    id = dead_ids_.back();
    dead_ids_.pop_back();
  }
  runs_[id] = {.first_page = first_page, .pages = pages, .owner = owner, .movable = true, .live = true};
  live_[first_page] = id;
  used_pages_[static_cast<int>(owner)] += pages;
  return PageRun(this, id);
}

void PagePool::Free(int32_t id) {
  Run& run = runs_[id];
  LORAD_CHECK(run.live);
  live_.erase(run.first_page);
  used_pages_[static_cast<int>(run.owner)] -= run.pages;
  GiveHole(run.first_page, run.pages);
  if (run.owner == PageOwner::kAdapter) GiveBackToSystem(run.first_page, run.pages);
  run.live = false;
  dead_ids_.push_back(id);
}

void PagePool::TakeHole(int64_t first_page, int64_t pages) {
  auto hole = std::prev(holes_.upper_bound(first_page));
  const int64_t hole_first = hole->first;
  const int64_t hole_end = hole_first + hole->second;
  LORAD_CHECK(hole_first <= first_page && first_page + pages <= hole_end);
  holes_.erase(hole);
  if (hole_first < first_page) holes_[hole_first] = first_page - hole_first;
  if (first_page + pages < hole_end) holes_[first_page + pages] = hole_end - first_page - pages;
  free_pages_ -= pages;
}

void PagePool::GiveHole(int64_t first_page, int64_t pages) {
  free_pages_ += pages;
  pages = std::min(pages, closing_page_ - first_page);
  if (pages <= 0) return;
  const auto next = holes_.lower_bound(first_page);
  if (next != holes_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == first_page) {
      first_page = previous->first;
      pages += previous->second;
      holes_.erase(previous);
    }
  }
  if (next != holes_.end() && next->first == first_page + pages) {
    pages += next->second;
    holes_.erase(next);
  }
  holes_[first_page] = pages;
}

void PagePool::GiveBackToSystem(int64_t first_page, int64_t pages) {
  memory_->Discard(AddressOf(first_page), pages * page_bytes_);
}

int64_t PagePool::used_pages(PageOwner owner) const { return used_pages_[static_cast<int>(owner)]; }

int64_t PagePool::largest_free_run() const {
  int64_t largest = 0;
  for (const auto& [first_page, pages] : holes_) largest = std::max(largest, pages);
  return largest;
}

bool PagePool::IsFree(int64_t page) const {
  LORAD_CHECK(page >= 0 && page < total_pages_);
  const auto next = live_.upper_bound(page);
  if (next == live_.begin()) return true;
  const Run& run = runs_[std::prev(next)->second];
  return page >= run.first_page + run.pages;
}

PageOwner PagePool::OwnerOf(int64_t page) const {
  LORAD_CHECK(!IsFree(page));
  return runs_[std::prev(live_.upper_bound(page))->second].owner;
}

}  // namespace lorad
