#pragma once

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>

// LibTorch's memory on the emulated device, and its pinned memory of the host.
namespace lorad::emulator {

c10::Allocator& TorchDeviceAllocator();
at::HostAllocator& TorchPinnedAllocator();

// The device reads or writes what lies there, behind what is queued.
void UseOnDevice(const at::Tensor& host);

// As LibTorch does behind its launches and in front of its allocations: whoever left it, this call throws it.
void ThrowLastError();

}  // namespace lorad::emulator
