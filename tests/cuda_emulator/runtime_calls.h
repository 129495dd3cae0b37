#pragma once

#include <atomic>
#include <cstdint>

// How often the runtime was called for what holds others up on a device: locks of the driver's, and its copy engines.
namespace lorad::emulator {

struct RuntimeCalls {
  std::atomic<int64_t> host_locks = 0;  // memory of the host that was page-locked, or unlocked
  std::atomic<int64_t> copies = 0;
  std::atomic<int64_t> most_copied_bytes = 0;  // at once
  std::atomic<int64_t> waits = 0;              // for a stream or an event
  std::atomic<int64_t> mappings = 0;           // of the driver's memory that were made or undone
  std::atomic<int64_t> accesses_set = 0;       // to a range of it

  void Copy(int64_t bytes) {
    ++copies;
    if (bytes > most_copied_bytes) most_copied_bytes = bytes;
  }
  void Reset() { host_locks = copies = most_copied_bytes = waits = mappings = accesses_set = 0; }
};
inline RuntimeCalls runtime_calls;

}  // namespace lorad::emulator
