#include "adapters/pack_into.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;

}  // namespace

absl::StatusOr<PieceCopier*> AdapterPacker::Copier() {
  if (copier_ == nullptr) {
    ASSIGN_OR_RETURN(copier_, memory_->NewCopier());
  }
  return copier_.get();
}

absl::Status AdapterPacker::Pack(const AdapterImage& image, const PackedLayout& layout, std::byte* destination,
                                 PackedAdapter* keep) {
  std::byte* const kept = keep == nullptr ? nullptr : keep->memory->data();
  if (on_host()) {
    lorad::Pack(image, layout, kept == nullptr ? destination : kept);
    if (kept != nullptr) std::memcpy(destination, kept, static_cast<size_t>(layout.total_bytes));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(PieceCopier* const copier, Copier());
  absl::Status status;
  for (size_t i = 0; i < layout.slots.size() && status.ok(); ++i) {
    const PackedSlot& packed = layout.slots[i];
    const int64_t bytes = packed.end_bytes - packed.begin_bytes;
    if (bytes == 0) continue;
    absl::StatusOr<std::byte*> piece = copier->Next(bytes);
    if (!piece.ok()) {
      status = piece.status();
      break;
    }
    // Not the other way round: pinned memory may be slow to read.
    PackSlot(image.slots[i], packed, layout.dtype, kept == nullptr ? *piece : kept + packed.begin_bytes);
    if (kept != nullptr) std::memcpy(*piece, kept + packed.begin_bytes, static_cast<size_t>(bytes));
    status = copier->Send(destination + packed.begin_bytes);
  }
  status.Update(copier->Finish());  // also after an error: nothing may be on its way into pages that are given back
  return status;
}

absl::Status AdapterPacker::Copy(const PackedAdapter& packed, std::byte* destination) {
  const int64_t total_bytes = packed.layout.total_bytes;
  const std::byte* const from = packed.memory->data();
  if (on_host()) {
    std::memcpy(destination, from, static_cast<size_t>(total_bytes));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(PieceCopier* const copier, Copier());
  absl::Status status;
  for (int64_t done = 0; done < total_bytes && status.ok(); done += kPieceBytes) {
    const int64_t bytes = std::min(kPieceBytes, total_bytes - done);
    absl::StatusOr<std::byte*> piece = copier->Next(bytes);
    if (!piece.ok()) {
      status = piece.status();
      break;
    }
    std::memcpy(*piece, from + done, static_cast<size_t>(bytes));
    status = copier->Send(destination + done);
  }
  status.Update(copier->Finish());
  return status;
}

}  // namespace lorad
