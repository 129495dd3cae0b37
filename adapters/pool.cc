#include "adapters/pool.h"

#include <list>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "model/base/status_macros.h"
#include "model/memory/join_pages.h"

namespace lorad {
namespace {

constexpr int32_t kFirstSlots = 16;
// What one Reserve may copy to join free pages: 10 to 20 ms of memory bandwidth.
constexpr int64_t kCompactBytesPerReserve = int64_t{64} << 20;
constexpr int64_t kCompactBytesPerTurn = int64_t{4} << 20;

}  // namespace

AdapterLease::AdapterLease(AdapterLease&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_), slot_(std::exchange(other.slot_, -1)) {}

AdapterLease& AdapterLease::operator=(AdapterLease&& other) noexcept {
  if (this != &other) {
    if (pool_ != nullptr) pool_->Release(id_);
    pool_ = std::exchange(other.pool_, nullptr);
    id_ = other.id_;
    slot_ = std::exchange(other.slot_, -1);
  }
  return *this;
}

AdapterLease::~AdapterLease() {
  if (pool_ != nullptr) pool_->Release(id_);
}

struct AdapterPool::Impl {
  struct Entry {
    PackedLayout layout;
    std::shared_ptr<ExpertLoad> expert_load;  // nullptr: not counted
    PageRun run;
    int32_t slot = -1;
    int64_t leases = 0;
    int64_t last_use = 0;  // when it became idle
    bool pinned = false;
    std::list<AdapterId>::iterator place;  // in leased when leases > 0, else in idle
  };

  Impl(PagePool* page_pool, const BaseShape& shape) : pages(page_pool), table(shape) {}

  int32_t TakeSlot();
  void PutIntoTable(const Entry& entry);
  void Drop(std::unordered_map<AdapterId, Entry>::iterator entry);
  bool EvictOldest();
  bool CompactFor(int64_t wanted_pages);

  PagePool* const pages;
  SlotTable table;
  std::unordered_map<AdapterId, Entry> entries;
  std::list<AdapterId> leased;
  std::list<AdapterId> idle;  // oldest use first
  std::vector<int32_t> free_slots;
  std::vector<AdapterId> evicted;
  int64_t evictable_pages = 0;  // of idle, unpinned entries
};

int32_t AdapterPool::Impl::TakeSlot() {
  if (free_slots.empty()) {
    const int32_t old_slots = table.slots();
    table.Resize(old_slots == 0 ? kFirstSlots : 2 * old_slots);
    for (int32_t slot = table.slots() - 1; slot >= old_slots; --slot) free_slots.push_back(slot);
  }
  const int32_t slot = free_slots.back();
  free_slots.pop_back();
  return slot;
}

void AdapterPool::Impl::PutIntoTable(const Entry& entry) {
  const std::byte* const base = entry.run.data();
  const auto bytes_at = [base](int64_t offset) { return offset < 0 ? nullptr : base + offset; };
  const auto floats_at = [&](int64_t offset) { return reinterpret_cast<const float*>(bytes_at(offset)); };
  for (const PackedSlot& packed : entry.layout.slots) {
    const bool counts = entry.expert_load != nullptr && packed.router_offset_bytes >= 0;
    table.Set(packed.site, packed.layer, entry.slot,
              {.a = bytes_at(packed.a_offset_bytes),
               .b_t = bytes_at(packed.b_offset_bytes),
               .rank = packed.rank,
               .scale = packed.scale,
               .dora = floats_at(packed.dora_offset_bytes),
               .delta_bias = floats_at(packed.delta_bias_offset_bytes),
               .bias = floats_at(packed.bias_offset_bytes),
               .experts = packed.experts,
               .rows = bytes_at(packed.rows_offset_bytes),
               .row_ids = reinterpret_cast<const int32_t*>(bytes_at(packed.row_ids_offset_bytes)),
               .num_rows = packed.num_rows,
               .width = packed.width,
               .end_of_rows = packed.end_of_rows,
               .router = floats_at(packed.router_offset_bytes),
               .router_top_k = entry.layout.routing.top_k,
               .expert_rows = counts ? entry.expert_load->Counters(packed.layer) : nullptr});
  }
  table.SetRouting(entry.slot, entry.layout.routing);
}

void AdapterPool::Impl::Drop(std::unordered_map<AdapterId, Entry>::iterator found) {
  Entry& entry = found->second;
  LORAD_CHECK_EQ(entry.leases, 0);
  if (!entry.pinned) evictable_pages -= entry.run.pages();
  table.ClearSlot(entry.slot);
  free_slots.push_back(entry.slot);
  idle.erase(entry.place);
  entries.erase(found);
}

bool AdapterPool::Impl::EvictOldest() {
  for (const AdapterId id : idle) {
    const auto found = entries.find(id);
    if (found->second.pinned) continue;
    evicted.push_back(id);
    Drop(found);
    return true;
  }
  return false;
}

// Joins free pages until a run of `wanted_pages` is free. True: that run is there, or more can be moved another time.
bool AdapterPool::Impl::CompactFor(int64_t wanted_pages) {
  int64_t budget_bytes = kCompactBytesPerReserve;
  const JoinedPages joined = JoinPages(pages, wanted_pages, kCompactBytesPerTurn, &budget_bytes);
  if (joined.moved_adapters) {
    for (const auto& [id, entry] : entries) PutIntoTable(entry);
  }
  return joined.more || pages->largest_free_run() >= wanted_pages;
}

AdapterPool::AdapterPool(PagePool* pages, const BaseShape& shape) : impl_(std::make_unique<Impl>(pages, shape)) {}

AdapterPool::~AdapterPool() { LORAD_CHECK(impl_->leased.empty()); }

absl::StatusOr<AdapterReservation> AdapterPool::Reserve(AdapterId id, PackedLayout layout) {
  LORAD_CHECK_GT(layout.total_bytes, 0);
  LORAD_CHECK(!IsResident(id));
  PagePool* const pages = impl_->pages;
  const int64_t wanted = pages->PagesFor(layout.total_bytes);
  if (wanted > pages->total_pages()) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter larger than the memory for KV and adapters: bytes: ", layout.total_bytes,
                     "; limit: ", pages->total_pages() * pages->page_bytes(), "; raise --memory-bytes"));
  }
  if (wanted > pages->free_pages() + impl_->evictable_pages) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "no room for the adapter: pages wanted: ", wanted, "; free: ", pages->free_pages(), "; idle adapters hold: ",
        impl_->evictable_pages, "; the rest is in use or pinned; retry later or raise --memory-bytes"));
  }
  EvictUntilFree(wanted);
  // What is still scattered when nothing is left to move lies around runs that cannot: evict further.
  while (pages->largest_free_run() < wanted && !impl_->CompactFor(wanted) && impl_->EvictOldest()) {
  }
  ASSIGN_OR_RETURN(PageRun run, pages->Reserve(wanted, PageOwner::kAdapter));
  run.SetMovable(false);
  AdapterReservation reservation;
  reservation.id_ = id;
  reservation.layout_ = std::move(layout);
  reservation.run_ = std::move(run);
  return reservation;
}

void AdapterPool::Commit(AdapterReservation reservation, std::shared_ptr<ExpertLoad> expert_load) {
  LORAD_CHECK(!reservation.empty());
  const AdapterId id = reservation.id_;
  const bool first = impl_->entries.empty();
  LORAD_CHECK(first || impl_->table.dtype() == reservation.layout_.dtype);
  impl_->table.SetDType(reservation.layout_.dtype);
  const auto [found, inserted] = impl_->entries.try_emplace(id);
  LORAD_CHECK(inserted);
  Impl::Entry& entry = found->second;
  entry.layout = std::move(reservation.layout_);
  entry.run = std::move(reservation.run_);
  entry.run.SetMovable(true);
  entry.expert_load = std::move(expert_load);
  entry.slot = impl_->TakeSlot();
  entry.place = impl_->idle.insert(impl_->idle.end(), id);
  entry.last_use = impl_->pages->NextUse();
  impl_->evictable_pages += entry.run.pages();
  impl_->PutIntoTable(entry);
}

bool AdapterPool::IsResident(AdapterId id) const { return impl_->entries.contains(id); }

absl::StatusOr<AdapterLease> AdapterPool::Acquire(AdapterId id) {
  const auto found = impl_->entries.find(id);
  if (found == impl_->entries.end()) return absl::NotFoundError(absl::StrCat("adapter not resident: ", id));
  Impl::Entry& entry = found->second;
  if (entry.leases++ == 0) {
    impl_->leased.splice(impl_->leased.end(), impl_->idle, entry.place);
    if (!entry.pinned) impl_->evictable_pages -= entry.run.pages();
  }
  return AdapterLease(this, id, entry.slot);
}

void AdapterPool::Release(AdapterId id) {
  Impl::Entry& entry = impl_->entries.at(id);
  LORAD_CHECK_GT(entry.leases, 0);
  if (--entry.leases > 0) return;
  impl_->idle.splice(impl_->idle.end(), impl_->leased, entry.place);
  entry.last_use = impl_->pages->NextUse();
  if (!entry.pinned) impl_->evictable_pages += entry.run.pages();
}

void AdapterPool::SetPinned(AdapterId id, bool pinned) {
  const auto found = impl_->entries.find(id);
  if (found == impl_->entries.end() || found->second.pinned == pinned) return;
  Impl::Entry& entry = found->second;
  entry.pinned = pinned;
  if (entry.leases == 0) impl_->evictable_pages += pinned ? -entry.run.pages() : entry.run.pages();
}

void AdapterPool::Touch(AdapterId id) {
  const auto found = impl_->entries.find(id);
  if (found == impl_->entries.end() || found->second.leases > 0) return;
  impl_->idle.splice(impl_->idle.end(), impl_->idle, found->second.place);
  found->second.last_use = impl_->pages->NextUse();
}

absl::Status AdapterPool::Remove(AdapterId id) {
  const auto found = impl_->entries.find(id);
  if (found == impl_->entries.end()) return absl::NotFoundError(absl::StrCat("adapter not resident: ", id));
  if (found->second.leases > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("adapter in use: ", id, "; running sequences: ", found->second.leases));
  }
  impl_->Drop(found);
  return absl::OkStatus();
}

void AdapterPool::Evict(AdapterId id) {
  LORAD_CHECK(Remove(id).ok());
  impl_->evicted.push_back(id);
}

std::vector<AdapterId> AdapterPool::EvictUntilFree(int64_t pages) {
  const size_t before = impl_->evicted.size();
  while (impl_->pages->free_pages() < pages && impl_->EvictOldest()) {
  }
  return {impl_->evicted.begin() + static_cast<int64_t>(before), impl_->evicted.end()};
}

std::vector<IdleAdapter> AdapterPool::Idle() const {
  std::vector<IdleAdapter> idle;
  for (const AdapterId id : impl_->idle) {
    const Impl::Entry& entry = impl_->entries.at(id);
    if (!entry.pinned) idle.push_back({.id = id, .pages = entry.run.pages(), .last_use = entry.last_use});
  }
  return idle;
}

int64_t AdapterPool::oldest_use() const {
  for (const AdapterId id : impl_->idle) {
    const Impl::Entry& entry = impl_->entries.at(id);
    if (!entry.pinned) return entry.last_use;
  }
  return -1;
}

int64_t AdapterPool::evictable_pages() const { return impl_->evictable_pages; }

int64_t AdapterPool::resident_count() const { return static_cast<int64_t>(impl_->entries.size()); }

std::vector<AdapterId> AdapterPool::TakeEvicted() { return std::exchange(impl_->evicted, {}); }

const SlotTable& AdapterPool::slots() const { return impl_->table; }

void AdapterPool::RefreshAddresses() {
  for (const auto& [id, entry] : impl_->entries) impl_->PutIntoTable(entry);
}

}  // namespace lorad
