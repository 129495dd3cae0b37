#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/expert_load.h"
#include "adapters/image.h"
#include "adapters/lease.h"
#include "adapters/loader.h"
#include "adapters/residency.h"
#include "adapters/slot_table.h"
#include "model/memory/page_pool.h"

namespace lorad {

// Keeps adapter weights in pages and lends them to running sequences.
//
// A resident adapter is on exactly one of two lists: leased (some sequence holds an AdapterLease) or idle, oldest
// first. Only idle, unpinned adapters are evicted, so a lease never dangles.
//
// Units    sizes in bytes; an adapter takes PagePool::PagesFor(layout.total_bytes) pages, less than one page of waste.
// Threads  engine thread only; loaders write into a reservation's bytes between Reserve and Commit.
// Errors   NotFound: not resident. ResourceExhausted: all of it is leased or pinned; retry later.
// Source   S-LoRA, arXiv 2311.03285 (unified paging); the eviction order is least recently used.
class AdapterPool final {
 public:
  // `pages` must outlive the pool. `shape` gives the sites that slots are looked up by.
  AdapterPool(PagePool* pages, const BaseShape& shape);
  ~AdapterPool();

  // Reserves pages, evicting idle adapters until the run fits; when enough pages are free but scattered it compacts, a
  // bounded part at a time, and may answer ResourceExhausted before it is done: the next try goes on. KV blocks may
  // move: never while a step is in flight. The reservation does not move until Commit, and is kept until its loader has
  // answered. Errors: InvalidArgument for an adapter larger than the pool.
  absl::StatusOr<AdapterReservation> Reserve(AdapterId id, PackedLayout layout);
  // The weights are in place: the adapter becomes resident and idle. Its routers count into `expert_load`.
  void Commit(AdapterReservation reservation, std::shared_ptr<ExpertLoad> expert_load = nullptr);

  bool IsResident(AdapterId id) const;
  absl::StatusOr<AdapterLease> Acquire(AdapterId id);
  void SetPinned(AdapterId id, bool pinned);
  // As if it had just been used, where it is idle: others are evicted before it.
  void Touch(AdapterId id);
  // Takes an idle adapter out (unload). FailedPrecondition while leased.
  absl::Status Remove(AdapterId id);
  // Takes an idle adapter out for the sake of its pages; TakeEvicted tells of it.
  void Evict(AdapterId id);
  // Evicts idle, unpinned adapters, oldest first, until `pages` are free in all or none is left; returns the evicted.
  std::vector<AdapterId> EvictUntilFree(int64_t pages);

  std::vector<IdleAdapter> Idle() const;  // unpinned, oldest use first
  int64_t oldest_use() const;             // of the first of them; -1: there is none

  // Pages that evicting every idle, unpinned adapter would give.
  int64_t evictable_pages() const;
  int64_t resident_count() const;
  std::vector<AdapterId> TakeEvicted();  // evicted since the last call, by Reserve or EvictUntilFree
  const SlotTable& slots() const;        // valid until the next change of residency
  void RefreshAddresses();               // after PagePool::Compact moved adapters

 private:
  friend class AdapterLease;
  friend class AdapterReservation;
  void Release(AdapterId id);  // by a lease that ends
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
