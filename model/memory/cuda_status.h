#pragma once

#include <string>
#include <string_view>

#include <cuda_runtime.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace lorad::cuda {

// What a call of CUDA's answered, said of `what`: ResourceExhausted where the device's or the pinned memory is full, as
// of what LibTorch throws (torch_errors.h), a kernel's that is loaded at its first launch, too; else Internal.
inline absl::Status StatusOf(std::string_view what, cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // LibTorch asks for the last error behind its own launches: this one has been told
  const std::string message = absl::StrCat(std::string(what), ": CUDA: ", cudaGetErrorString(error));
  if (error != cudaErrorMemoryAllocation) return absl::InternalError(message);
  return absl::ResourceExhaustedError(absl::StrCat(message, "; lower --memory-bytes"));
}

}  // namespace lorad::cuda
