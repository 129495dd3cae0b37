#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "adapters/image.h"
#include "adapters/warm_adapters.h"
#include "model/memory/pool_memory.h"

namespace lorad {

// Writes adapters into the memory of a pool: where the host writes there itself, in place; into a device's piece by
// piece, the next one packed while the one before is copied. A piece is a slot, or of packed bytes a MiB.
//
// Threads  one, which waits for the copies.
// Errors   what the memory's copier answers.
class AdapterPacker final {
 public:
  // `memory` outlives it; nullptr: the host's.
  explicit AdapterPacker(PoolMemory* memory) : memory_(memory) {}

  // `destination` has room for layout.total_bytes. All of it is there when this returns OK, and in `keep`, if there is
  // one.
  absl::Status Pack(const AdapterImage& image, const PackedLayout& layout, std::byte* destination,
                    PackedAdapter* keep = nullptr);
  // The same from what a Pack kept.
  absl::Status Copy(const PackedAdapter& packed, std::byte* destination);

 private:
  bool on_host() const { return memory_ == nullptr || memory_->on_host(); }
  absl::StatusOr<PieceCopier*> Copier();

  PoolMemory* const memory_;
  std::unique_ptr<PieceCopier> copier_;  // kept from one adapter to the next
};

}  // namespace lorad
