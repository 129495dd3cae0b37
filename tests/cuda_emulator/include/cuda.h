#pragma once

// Stands in for the driver's header: its calls for virtual memory, and how the runtime finds them.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstring>

#include "tests/cuda_emulator/runtime_calls.h"
#include "tests/cuda_emulator/virtual_memory.h"

using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUmemGenericAllocationHandle = unsigned long long;
enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1, CUDA_ERROR_OUT_OF_MEMORY = 2 };
enum CUdevice_attribute { CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102 };
enum CUmemAllocationType { CU_MEM_ALLOCATION_TYPE_INVALID = 0, CU_MEM_ALLOCATION_TYPE_PINNED = 1 };
enum CUmemLocationType { CU_MEM_LOCATION_TYPE_INVALID = 0, CU_MEM_LOCATION_TYPE_DEVICE = 1 };
enum CUmemAllocationGranularity_flags { CU_MEM_ALLOC_GRANULARITY_MINIMUM = 0 };
enum CUmemAccess_flags { CU_MEM_ACCESS_FLAGS_PROT_NONE = 0, CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3 };
struct CUmemLocation {
  CUmemLocationType type;
  int id;
};
struct CUmemAllocationProp {
  CUmemAllocationType type;
  CUmemLocation location;
};
struct CUmemAccessDesc {
  CUmemLocation location;
  CUmemAccess_flags flags;
};

inline CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute, CUdevice) {
  *value = lorad::emulator::HasVirtualMemory() ? 1 : 0;
  return CUDA_SUCCESS;
}
inline CUresult cuMemGetAllocationGranularity(size_t* bytes, const CUmemAllocationProp*,
                                              CUmemAllocationGranularity_flags) {
  *bytes = lorad::emulator::kMapBytes;
  return CUDA_SUCCESS;
}
inline CUresult cuMemAddressReserve(CUdeviceptr* at, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  *at = reinterpret_cast<CUdeviceptr>(lorad::emulator::ReserveAddresses(bytes));
  return *at == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
inline CUresult cuMemAddressFree(CUdeviceptr at, size_t bytes) {
  lorad::emulator::FreeAddresses(reinterpret_cast<std::byte*>(at), bytes);
  return CUDA_SUCCESS;
}
// A handle is the size of what it stands for.
inline CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp*,
                            unsigned long long) {
  if (bytes == 0 || bytes % lorad::emulator::kMapBytes != 0) return CUDA_ERROR_INVALID_VALUE;
  *handle = bytes;
  return lorad::emulator::TakeMemory(bytes) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
inline CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  lorad::emulator::GiveMemoryBack(handle);
  return CUDA_SUCCESS;
}
inline CUresult cuMemMap(CUdeviceptr at, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                         unsigned long long) {
  ++lorad::emulator::runtime_calls.mappings;
  if (offset != 0 || bytes != handle) return CUDA_ERROR_INVALID_VALUE;
  return lorad::emulator::AddMapping(reinterpret_cast<std::byte*>(at), bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
inline CUresult cuMemSetAccess(CUdeviceptr at, size_t bytes, const CUmemAccessDesc* access, size_t count) {
  ++lorad::emulator::runtime_calls.accesses_set;
  if (count != 1 || access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE) return CUDA_ERROR_INVALID_VALUE;
  if (!lorad::emulator::AreMapped(reinterpret_cast<std::byte*>(at), bytes)) return CUDA_ERROR_INVALID_VALUE;
  lorad::emulator::MapMemory(reinterpret_cast<std::byte*>(at), bytes);
  return CUDA_SUCCESS;
}
inline CUresult cuMemUnmap(CUdeviceptr at, size_t bytes) {
  ++lorad::emulator::runtime_calls.mappings;
  if (!lorad::emulator::RemoveMapping(reinterpret_cast<std::byte*>(at), bytes)) return CUDA_ERROR_INVALID_VALUE;
  lorad::emulator::UnmapMemory(reinterpret_cast<std::byte*>(at), bytes);
  return CUDA_SUCCESS;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  lorad::emulator::RunAllStreams();
  lorad::emulator::NoteHostWaitsForAll();
  return cudaSuccess;
}

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0, cudaDriverEntryPointSymbolNotFound = 1 };
inline constexpr unsigned long long cudaEnableDefault = 0;
inline cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** call, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* result) {
  static constexpr auto same = [](const char* a, const char* b) { return std::strcmp(a, b) == 0; };
  *call = same(name, "cuDeviceGetAttribute")            ? reinterpret_cast<void*>(&cuDeviceGetAttribute)
          : same(name, "cuMemGetAllocationGranularity") ? reinterpret_cast<void*>(&cuMemGetAllocationGranularity)
          : same(name, "cuMemAddressReserve")           ? reinterpret_cast<void*>(&cuMemAddressReserve)
          : same(name, "cuMemAddressFree")              ? reinterpret_cast<void*>(&cuMemAddressFree)
          : same(name, "cuMemCreate")                   ? reinterpret_cast<void*>(&cuMemCreate)
          : same(name, "cuMemRelease")                  ? reinterpret_cast<void*>(&cuMemRelease)
          : same(name, "cuMemMap")                      ? reinterpret_cast<void*>(&cuMemMap)
          : same(name, "cuMemUnmap")                    ? reinterpret_cast<void*>(&cuMemUnmap)
          : same(name, "cuMemSetAccess")                ? reinterpret_cast<void*>(&cuMemSetAccess)
                                                        : nullptr;
  *result = *call == nullptr ? cudaDriverEntryPointSymbolNotFound : cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
