#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <cuda.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad::cuda {

// The driver's calls for virtual memory, found at run time: nothing of ours links the driver's library.
struct VirtualMemoryCalls {
  decltype(&cuDeviceGetAttribute) device_attribute = nullptr;
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;

  bool Find();  // false: this driver lacks one
};

// Memory of the current device at one range of addresses, in chunks that lie side by side there, each of which can go
// back to the device and come again at the same place. All of it is there at first.
//
// A chunk is the least that the driver maps (2 MiB on today's devices), doubled until there are 4096 chunks at most:
// each is two calls of the driver's whenever it comes or goes, and a part of one cannot be given back. Access to those
// that come together is set by one call.
//
// Threads  one at a time, with nothing in flight that uses what is released.
class CudaChunks final {
 public:
  // Tries out that a chunk that went comes again. Errors: Unimplemented: device or driver cannot, or it did not;
  // ResourceExhausted: the device has less left.
  static absl::StatusOr<std::unique_ptr<CudaChunks>> Create(int64_t bytes);
  ~CudaChunks();
  CudaChunks(const CudaChunks&) = delete;
  CudaChunks& operator=(const CudaChunks&) = delete;

  std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }
  int64_t chunk_bytes() const { return chunk_bytes_; }

  // Offsets from data(): `begin` of a chunk, `end` of one or anywhere in the last.
  void Release(int64_t begin, int64_t end);
  // The lowest first; where it stopped: `end` or the beginning of the chunk for which there was no memory.
  int64_t Restore(int64_t begin, int64_t end);

 private:
  CudaChunks() = default;
  absl::Status Reserve(int64_t bytes);
  absl::Status TryOut();
  // Memory for chunks [first, end), as many as there is for, the lowest first; where it stopped.
  int64_t MapFrom(int64_t first, int64_t end, absl::Status* why);
  absl::Status MapOne(int64_t chunk);
  absl::Status SetAccess(int64_t first, int64_t end);
  void Unmap(int64_t chunk);
  CUdeviceptr AddressOf(int64_t chunk) const { return address_ + static_cast<CUdeviceptr>(chunk * chunk_bytes_); }
  size_t SizeOf(int64_t chunk) const;
  int64_t chunks() const { return static_cast<int64_t>(chunks_.size()); }

  VirtualMemoryCalls calls_;
  CUmemAllocationProp kind_ = {};
  CUdeviceptr address_ = 0;
  int64_t bytes_ = 0;  // of the addresses
  int64_t chunk_bytes_ = 0;
  std::vector<std::optional<CUmemGenericAllocationHandle>> chunks_;  // nothing: released
};

}  // namespace lorad::cuda
