#include "adapters/pack_into.h"

#include <utility>

#include "model/base/status_macros.h"

namespace lorad {

absl::Status AdapterPacker::Pack(const AdapterImage& image, const PackedLayout& layout, std::byte* destination) {
  if (memory_ == nullptr || memory_->on_host()) {
    lorad::Pack(image, layout, destination);
    return absl::OkStatus();
  }
  if (copier_ == nullptr) {
    ASSIGN_OR_RETURN(copier_, memory_->NewCopier());
  }
  absl::Status status;
  for (size_t i = 0; i < layout.slots.size() && status.ok(); ++i) {
    const PackedSlot& packed = layout.slots[i];
    if (packed.begin_bytes == packed.end_bytes) continue;
    absl::StatusOr<std::byte*> piece = copier_->Next(packed.end_bytes - packed.begin_bytes);
    if (!piece.ok()) {
      status = piece.status();
      break;
    }
    PackSlot(image.slots[i], packed, layout.dtype, *piece);
    status = copier_->Send(destination + packed.begin_bytes);
  }
  status.Update(copier_->Finish());  // also after an error: nothing may be on its way into pages that are given back
  return status;
}

}  // namespace lorad
