#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "model/memory/pool_memory.h"

namespace lorad {

enum class PageOwner : uint8_t { kKv, kAdapter };

class PagePool;

// A contiguous run of pages, given back when it goes. Where it lies may change between steps (PagePool::Compact), so
// addresses are asked for anew each step.
class PageRun final {
 public:
  PageRun() = default;
  PageRun(PageRun&& other) noexcept;
  PageRun& operator=(PageRun&& other) noexcept;
  ~PageRun();

  bool empty() const { return pool_ == nullptr; }
  int64_t first_page() const;
  int64_t pages() const;
  std::byte* data() const;  // in the pool's memory, which may be a device's
  // A run that another thread writes into (a loader packing weights) must not be moved.
  void SetMovable(bool movable);

 private:
  friend class PagePool;
  PageRun(PagePool* pool, int32_t id) : pool_(pool), id_(id) {}
  PagePool* pool_ = nullptr;
  int32_t id_ = -1;
};

// One arena cut into pages, shared by KV blocks (from the low end) and adapters (from the high end). Either side takes
// what the other leaves free. Knows owner and size of a run, never its content.
//
// Units    pages of page_bytes(); sizes in bytes say so.
// Threads  engine thread only, but for the bytes of a run, which belong to the run's owner.
// Memory   an adapter's pages go back to the operating system when freed; KV pages are kept, they are soon used again.
// Errors   ResourceExhausted: no such run free; the message has pages wanted, free and the largest hole.
// Source   S-LoRA, arXiv 2311.03285 (unified paging).
class PagePool final {
 public:
  // Host memory for `capacity_bytes` (rounded down to whole pages), touched on first use.
  static absl::StatusOr<std::unique_ptr<PagePool>> Create(int64_t capacity_bytes, int64_t page_bytes);
  // Pages of this memory, as many as it has whole ones.
  static absl::StatusOr<std::unique_ptr<PagePool>> Create(std::unique_ptr<PoolMemory> memory, int64_t page_bytes);
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // First fit: KV from the low end, adapters from the high end.
  absl::StatusOr<PageRun> Reserve(int64_t pages, PageOwner owner);

  // Told the owner's side of each run that was moved, so that tables that hold addresses can be renewed.
  using MovedFn = std::function<void(PageOwner owner)>;

  // What one call of Withhold may do: copy so many bytes, of so many runs, but always one run; give or take so many
  // chunks of the memory.
  struct TurnBudget {
    int64_t bytes;
    int64_t runs;
    int64_t chunks;
  };

  // Counts `pages` in all as taken by somebody who keeps his bytes outside the arena: training. They are no runs. As
  // far as they are whole chunks of the memory, it is the device's in the end: the arena is so much shorter at its
  // high end, and the runs there are moved. Never while a step is in flight.
  //
  // One turn's part of it; true: that was the last, false: call again with the same number. They count from the first
  // call on, and nobody gets a page that is to go. Another number is begun with at any time.
  //
  // Fewer than before: the device gives memory again. Where it has too little, that is no error, and the end, but
  // withheld_pages() stays above `pages`, and the same call may do better later.
  //
  // Errors: ResourceExhausted: too few are free, or a run that cannot be moved is in the way; nothing is withheld then
  // that was not before the first turn.
  absl::StatusOr<bool> Withhold(int64_t pages, const TurnBudget& budget, const MovedFn& moved);
  // All of it at once.
  absl::Status Withhold(int64_t pages, const MovedFn& moved);

  // Moves movable runs (KV down, adapters up) so that free pages join, copying at most `max_bytes`, but always one run,
  // so that a run larger than the budget moves too. Returns true while there is more to move. Never while a step is in
  // flight.
  bool Compact(int64_t max_bytes, const MovedFn& moved);

  // Stamps for what was used last: one order over both sides, so that whoever needs pages can take the oldest of all.
  int64_t NextUse() { return ++uses_; }

  PoolMemory& memory() const { return *memory_; }
  std::byte* arena() const { return memory_->data(); }
  int64_t page_bytes() const { return page_bytes_; }
  int64_t total_pages() const { return total_pages_; }
  int64_t free_pages() const { return free_pages_ - withheld_pages_; }
  int64_t withheld_pages() const { return withheld_pages_; }
  int64_t released_pages() const { return total_pages_ - end_page_; }  // of those withheld, the topmost pages
  int64_t used_pages(PageOwner owner) const;
  int64_t largest_free_run() const;
  // The side that owns a page, or nothing: for tests and for the invariants checker.
  bool IsFree(int64_t page) const;
  PageOwner OwnerOf(int64_t page) const;
  int64_t PagesFor(int64_t bytes) const { return (bytes + page_bytes_ - 1) / page_bytes_; }

 private:
  friend class PageRun;
  struct Run {
    int64_t first_page = 0;
    int64_t pages = 0;
    PageOwner owner = PageOwner::kKv;
    bool movable = true;
    bool live = false;
  };
  // One move of compaction. `swap_with`: the adapter just below a KV run, which changes places with it; else -1.
  struct Relocation {
    int32_t id = -1;
    int64_t first_page = 0;
    int32_t swap_with = -1;
  };
  PagePool(std::unique_ptr<PoolMemory> memory, int64_t page_bytes);
  void Free(int32_t id);
  void TakeHole(int64_t first_page, int64_t pages);
  void GiveHole(int64_t first_page, int64_t pages);
  void GiveBackToSystem(int64_t first_page, int64_t pages);
  std::byte* AddressOf(int64_t page) const { return arena() + page * page_bytes_; }

  std::optional<Relocation> NextRelocation() const;
  std::optional<Relocation> KvIntoLowestHole() const;
  std::optional<Relocation> AdapterIntoHighestHole() const;
  std::optional<Relocation> SlideIntoHole() const;
  std::optional<Relocation> SwapAdapterWithKvAbove() const;
  int64_t CopiedPages(const Relocation& relocation) const;
  void Relocate(const Relocation& relocation);
  void RelocateRun(int32_t id, int64_t first_page);
  void SwapRuns(int32_t lower, int32_t upper);

  int64_t EndOfArena(int64_t withheld_pages) const;
  int64_t ChunksFrom(int64_t page, int64_t chunks) const;
  void CloseFrom(int64_t page);
  void OpenTo(int64_t page);
  absl::StatusOr<bool> Clear(const TurnBudget& budget, const MovedFn& moved);
  int64_t EndOfRuns() const;
  std::optional<Relocation> NextToClear();
  std::optional<Relocation> RunOutOfClosed() const;
  std::optional<Relocation> NextSlideDown() const;
  void ReleaseFrom(int64_t end_page);
  void RestoreTo(int64_t end_page);

  const std::unique_ptr<PoolMemory> memory_;
  int64_t page_bytes_;
  int64_t total_pages_;
  int64_t chunk_pages_ = 0;  // whole chunks of the memory in whole pages; 0: nothing can be released
  int64_t end_page_;         // what is above is released: in no hole, in no run
  int64_t closing_page_;     // what is above is in no hole; runs there, below end_page_, are to be moved
  int64_t free_pages_;       // those withheld among them
  int64_t withheld_pages_ = 0;
  int64_t undo_pages_ = 0;    // that were withheld before what is closed was
  int64_t joined_pages_ = 0;  // moved to join holes since something is to be cleared
  bool slides_down_ = false;  // runs are moved down, each right below the one above: nobody may move them up again
  std::vector<Run> runs_;     // by id; dead ids are reused
  std::vector<int32_t> dead_ids_;
  std::map<int64_t, int32_t> live_;   // first page -> id, in address order
  std::map<int64_t, int64_t> holes_;  // first page -> pages; neighbours are always joined
  int64_t used_pages_[2] = {0, 0};
  int64_t uses_ = 0;
};

}  // namespace lorad
