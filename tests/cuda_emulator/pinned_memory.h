#pragma once

#include <cstddef>

#include "tests/cuda_emulator/stream_order.h"

// Pinned memory of the host, whose pages the host cannot write while a copy reads them, nor touch while one writes
// them, until it has waited for the copy: whoever does so, in LibTorch or libc too, is a race. Only while streams are
// watched.
namespace lorad::emulator {

void* AllocatePinned(size_t bytes);
// As LibTorch's, which does not hand it out again before what uses it is done.
void FreePinnedLater(void* data);
// As cudaFreeHost.
void FreePinned(void* data);
bool IsPinned(const void* at);

// What is queued reads or writes it.
void UsePinned(const Ticket& ticket, const void* at, size_t bytes, bool writes);
// The host learnt that something is done.
void OpenWhatIsDone();

// While one lives, the emulator may touch what lies here, as the device.
class PinnedAccess final {
 public:
  explicit PinnedAccess(const void* at);
  ~PinnedAccess();
  PinnedAccess(const PinnedAccess&) = delete;
  PinnedAccess& operator=(const PinnedAccess&) = delete;

 private:
  const void* const at_;  // null: not pinned
};

}  // namespace lorad::emulator
