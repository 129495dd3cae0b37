#pragma once

#include "tests/cuda_emulator/virtual_memory.h"

// Stands in for LibTorch's: what it keeps of the emulated device's memory goes back.
namespace c10::cuda::CUDACachingAllocator {

inline void emptyCache() { lorad::emulator::EmptyTorchCache(); }

}  // namespace c10::cuda::CUDACachingAllocator
