#pragma once

#include <cstdint>
#include <memory>

#include "adapters/image.h"
#include "model/memory/page_pool.h"

namespace lorad {

class AdapterPool;

// Keeps a resident adapter in the pool while some sequence runs on it. Engine thread only; must not outlive the pool.
class AdapterLease final {
 public:
  AdapterLease() = default;
  AdapterLease(AdapterLease&& other) noexcept;
  AdapterLease& operator=(AdapterLease&& other) noexcept;
  ~AdapterLease();

  bool empty() const { return pool_ == nullptr; }
  int32_t slot() const { return slot_; }  // index into SlotTable; fixed while leased

 private:
  friend class AdapterPool;
  AdapterLease(AdapterPool* pool, uint64_t id, int32_t slot) : pool_(pool), id_(id), slot_(slot) {}
  AdapterPool* pool_ = nullptr;
  uint64_t id_ = 0;
  int32_t slot_ = -1;
};

// Pages reserved for an adapter that a loader is packing; dropping it gives them back.
class AdapterReservation final {
 public:
  AdapterReservation() = default;
  AdapterReservation(AdapterReservation&&) noexcept = default;
  AdapterReservation& operator=(AdapterReservation&&) noexcept = default;

  bool empty() const { return run_.empty(); }
  uint64_t id() const { return id_; }
  std::byte* data() const { return run_.data(); }
  const PackedLayout& layout() const { return layout_; }

 private:
  friend class AdapterPool;
  uint64_t id_ = 0;
  PackedLayout layout_;
  PageRun run_;
};

}  // namespace lorad
