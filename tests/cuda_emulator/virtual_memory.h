#pragma once

#include <cstddef>

// The emulated device's memory as the driver's calls give it (include/cuda.h): addresses first, memory for parts of
// them later, which can go and come again. And what LibTorch keeps of it when tensors are gone.
namespace lorad::emulator {

// Whether the device says that it can; before, it does.
void SetVirtualMemory(bool has);
bool HasVirtualMemory();

// The least that is mapped: a page of the pools of tests, so that AddressSanitizer knows their ends.
inline constexpr size_t kMapBytes = 4096;
// nullptr: there are no more.
std::byte* ReserveAddresses(size_t bytes);
void FreeAddresses(std::byte* at, size_t bytes);
// False: the device is full.
bool TakeMemory(size_t bytes);
void GiveMemoryBack(size_t bytes);
// A mapping is made and undone as a whole; false: it lies upon another, or is none.
bool AddMapping(std::byte* at, size_t bytes);
bool RemoveMapping(std::byte* at, size_t bytes);
// All of this range is.
bool AreMapped(std::byte* at, size_t bytes);
// What is mapped may be touched as what is allocated, and is no number; what is unmapped may not.
void MapMemory(std::byte* at, size_t bytes);
void UnmapMemory(std::byte* at, size_t bytes);

// From now on what LibTorch frees stays taken until its cache is emptied, or it finds the device full. Nothing of it
// serves again before, which is where this is worse than LibTorch.
void KeepWhatTorchFrees(bool keep);
void FreeOfTorch(void* data);
void EmptyTorchCache();

// The most that was in use at once since the last call.
size_t TakePeakDeviceBytes();

}  // namespace lorad::emulator
