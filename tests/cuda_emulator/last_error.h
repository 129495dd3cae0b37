#pragma once

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

// So many launches of kernels fail from now on.
inline thread_local int failing_launches = 0;

}  // namespace lorad::emulator
