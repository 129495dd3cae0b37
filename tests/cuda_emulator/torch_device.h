#pragma once

#include <cstdint>

#include "model/ops/cuda_table.h"

namespace lorad::emulator {

// Makes LibTorch's device "cuda:0" of the emulated one. Once, before LibTorch is called.
void RegisterDevice();

// So often did the host wait for values of the device, through LibTorch.
int64_t CopiesToHost();
// Those that were queued on another stream than the one that serves.
int64_t CopiesToHostAside();

// So many bytes came from the host, through LibTorch, in copies that nobody waited for.
int64_t BytesFromHost();

// What liblorad_cuda.so has, of the same sources.
const CudaLibrary& EmulatedLibrary();

}  // namespace lorad::emulator
