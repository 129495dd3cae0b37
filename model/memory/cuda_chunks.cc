#include "model/memory/cuda_chunks.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "model/base/round_up.h"
#include "model/base/status_macros.h"

namespace lorad::cuda {
namespace {

constexpr int64_t kMostChunks = 4096;
constexpr unsigned kDriverVersion = 10020;  // the calls as of CUDA 10.2, which had them first

absl::Status StatusOf(std::string_view call, CUresult result) {
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  const std::string message =
      absl::StrCat("virtual memory of the device: ", std::string(call), ": error ", static_cast<int>(result));
  return result == CUDA_ERROR_OUT_OF_MEMORY ? absl::ResourceExhaustedError(message) : absl::UnimplementedError(message);
}

template <typename Call>
bool FindCall(const char* name, Call* call) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult how = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, kDriverVersion, cudaEnableDefault, &how);
  if (error != cudaSuccess) cudaGetLastError();  // LibTorch asks for it behind its own launches
  *call = reinterpret_cast<Call>(found);
  return error == cudaSuccess && how == cudaDriverEntryPointSuccess && found != nullptr;
}

// What is written at `address` can be read there.
bool Keeps(CUdeviceptr address, uint64_t written) {
  void* const there = reinterpret_cast<void*>(address);
  uint64_t read = 0;
  const bool copied =
      cudaMemcpyAsync(there, &written, sizeof(written), cudaMemcpyHostToDevice, nullptr) == cudaSuccess &&
      cudaMemcpyAsync(&read, there, sizeof(read), cudaMemcpyDeviceToHost, nullptr) == cudaSuccess &&
      cudaStreamSynchronize(nullptr) == cudaSuccess;
  if (!copied) cudaGetLastError();
  return copied && read == written;
}

}  // namespace

bool VirtualMemoryCalls::Find() {
  return FindCall("cuDeviceGetAttribute", &device_attribute) &&
         FindCall("cuMemGetAllocationGranularity", &granularity) && FindCall("cuMemAddressReserve", &reserve) &&
         FindCall("cuMemAddressFree", &free) && FindCall("cuMemCreate", &create) &&
         FindCall("cuMemRelease", &release) && FindCall("cuMemMap", &map) && FindCall("cuMemUnmap", &unmap) &&
         FindCall("cuMemSetAccess", &set_access);
}

absl::StatusOr<std::unique_ptr<CudaChunks>> CudaChunks::Create(int64_t bytes) {
  std::unique_ptr<CudaChunks> made(new CudaChunks);
  RETURN_IF_ERROR(made->Reserve(bytes));
  absl::Status why;
  made->MapFrom(0, made->chunks(), &why);
  RETURN_IF_ERROR(why);
  RETURN_IF_ERROR(made->TryOut());
  return made;
}

CudaChunks::~CudaChunks() {
  for (int64_t chunk = 0; chunk < chunks(); ++chunk) Unmap(chunk);
  if (address_ != 0) calls_.free(address_, static_cast<size_t>(bytes_));
}

absl::Status CudaChunks::Reserve(int64_t bytes) {
  int device = 0, able = 0;
  size_t free_bytes = 0, total_bytes = 0;  // for which the runtime makes the device ready
  if (!calls_.Find() || cudaGetDevice(&device) != cudaSuccess ||
      cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) {
    return absl::UnimplementedError("virtual memory of the device: the driver has none");
  }
  RETURN_IF_ERROR(
      StatusOf("cuDeviceGetAttribute",
               calls_.device_attribute(&able, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device)));
  if (able == 0) return absl::UnimplementedError("virtual memory of the device: it has none");
  kind_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  kind_.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  kind_.location.id = device;
  size_t least_bytes = 0;
  RETURN_IF_ERROR(StatusOf("cuMemGetAllocationGranularity",
                           calls_.granularity(&least_bytes, &kind_, CU_MEM_ALLOC_GRANULARITY_MINIMUM)));
  chunk_bytes_ = static_cast<int64_t>(least_bytes);
  bytes_ = RoundUp(bytes, chunk_bytes_);
  while (chunk_bytes_ * kMostChunks < bytes_) chunk_bytes_ *= 2;
  RETURN_IF_ERROR(StatusOf("cuMemAddressReserve",
                           calls_.reserve(&address_, static_cast<size_t>(bytes_), /*alignment=*/0, /*addr=*/0, 0)));
  chunks_.resize(static_cast<size_t>((bytes_ + chunk_bytes_ - 1) / chunk_bytes_));
  return absl::OkStatus();
}

absl::Status CudaChunks::TryOut() {
  const int64_t last = chunks() - 1;
  bool kept = Keeps(AddressOf(last), 0x6c6f726164ull);
  Unmap(last);
  const bool went = !chunks_[static_cast<size_t>(last)].has_value();
  absl::Status why;
  MapFrom(last, last + 1, &why);
  RETURN_IF_ERROR(why);
  kept = kept && went && Keeps(AddressOf(last), 0x646172ull);
  return kept ? absl::OkStatus() : absl::UnimplementedError("virtual memory of the device: it did not come again");
}

void CudaChunks::Release(int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += chunk_bytes_) Unmap(at / chunk_bytes_);
}

int64_t CudaChunks::Restore(int64_t begin, int64_t end) {
  absl::Status why;  // which is for the caller that there is no memory now
  const int64_t first = begin / chunk_bytes_, past = (end + chunk_bytes_ - 1) / chunk_bytes_;
  const int64_t stopped = MapFrom(first, past, &why);
  return stopped == past ? end : stopped * chunk_bytes_;
}

size_t CudaChunks::SizeOf(int64_t chunk) const {
  return static_cast<size_t>(std::min(chunk_bytes_, bytes_ - chunk * chunk_bytes_));
}

int64_t CudaChunks::MapFrom(int64_t first, int64_t end, absl::Status* why) {
  std::vector<int64_t> made;  // others were there already
  int64_t chunk = first;
  for (; chunk < end; ++chunk) {
    if (chunks_[static_cast<size_t>(chunk)].has_value()) continue;
    *why = MapOne(chunk);
    if (!why->ok()) break;
    made.push_back(chunk);
  }
  if (made.empty()) return chunk;
  const absl::Status accessible = SetAccess(made.front(), made.back() + 1);
  if (accessible.ok()) return chunk;
  *why = accessible;
  for (const int64_t unusable : made) Unmap(unusable);
  return made.front();
}

absl::Status CudaChunks::MapOne(int64_t chunk) {
  CUmemGenericAllocationHandle memory = 0;
  const size_t size = SizeOf(chunk);
  RETURN_IF_ERROR(StatusOf("cuMemCreate", calls_.create(&memory, size, &kind_, 0)));
  const CUresult result = calls_.map(AddressOf(chunk), size, /*offset=*/0, memory, 0);
  if (result != CUDA_SUCCESS) {
    calls_.release(memory);
    return StatusOf("cuMemMap", result);
  }
  chunks_[static_cast<size_t>(chunk)] = memory;
  return absl::OkStatus();
}

absl::Status CudaChunks::SetAccess(int64_t first, int64_t end) {
  const CUmemAccessDesc access = {.location = kind_.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  const CUdeviceptr past = AddressOf(end - 1) + SizeOf(end - 1);
  return StatusOf("cuMemSetAccess", calls_.set_access(AddressOf(first), static_cast<size_t>(past - AddressOf(first)),
                                                      &access, /*count=*/1));
}

// One that the driver does not let go stays as it is.
void CudaChunks::Unmap(int64_t chunk) {
  std::optional<CUmemGenericAllocationHandle>& mapped = chunks_[static_cast<size_t>(chunk)];
  if (!mapped.has_value() || calls_.unmap(AddressOf(chunk), SizeOf(chunk)) != CUDA_SUCCESS) return;
  calls_.release(*mapped);
  mapped.reset();
}

}  // namespace lorad::cuda
