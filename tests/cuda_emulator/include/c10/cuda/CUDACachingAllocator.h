#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include "tests/cuda_emulator/capture.h"

// Stands in for LibTorch's: what it keeps of the emulated device's memory goes back, and who allocates for captures.
namespace c10::cuda::CUDACachingAllocator {

inline void emptyCache() { TORCH_INTERNAL_ASSERT(lorad::emulator::EmptyCaches(), "captures_underway.empty()"); }
inline void endAllocateToPool(c10::DeviceIndex, c10::MempoolId_t pool) {
  lorad::emulator::DevicePools().End(pool.second);
}
inline void releasePool(c10::DeviceIndex, c10::MempoolId_t pool) {
  lorad::emulator::DevicePools().Release(pool.second);
}

}  // namespace c10::cuda::CUDACachingAllocator
