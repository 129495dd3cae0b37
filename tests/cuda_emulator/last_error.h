#pragma once

#include <atomic>
#include <utility>

// The runtime's last error, which it keeps for each thread until somebody asks: LibTorch does behind its own launches
// and in front of its allocations, and takes it for an error of theirs.
namespace lorad::emulator {

inline thread_local int last_error = 0;

// The error that a call of the runtime's answers, 0 for none; kept.
inline int Answer(int error) {
  if (error != 0) last_error = error;
  return error;
}
inline int TakeLastError() { return std::exchange(last_error, 0); }

// A device that is lost, as by a kernel that left its memory: every call answers so until the process ends.
inline constexpr int kErrorIllegalAddress = 700;
enum class Fate { kWell, kLostAtNextWait, kLost };
inline std::atomic<Fate> device_fate = Fate::kWell;
inline bool DeviceIsLost() { return device_fate == Fate::kLost; }
// What a wait for the device answers, where errors of kernels show.
inline int AnswerOfWait() {
  if (device_fate == Fate::kLostAtNextWait) device_fate = Fate::kLost;
  return Answer(DeviceIsLost() ? kErrorIllegalAddress : 0);
}

// So many launches of kernels fail from now on, by this error.
inline constexpr int kErrorInvalidConfiguration = 9;
inline thread_local int failing_launches = 0, failing_error = kErrorInvalidConfiguration;

}  // namespace lorad::emulator
