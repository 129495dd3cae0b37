#pragma once

#include "model/memory/pool_memory.h"

// The device "cuda:0" that tests and benches run on: the emulated one (tests/cuda_emulator) or, of a program that is
// linked with opened_device.cc, that of the liblorad_cuda.so which it opens.
namespace lorad {

// Once, before LibTorch is called. Without a device or the library: a line on stderr, and the program ends with 1.
void OpenTestDevice();
const DeviceMemory& TestDeviceMemory();
// The device is this processor: what a test computes is to be small.
bool TestDeviceIsEmulated();

}  // namespace lorad
