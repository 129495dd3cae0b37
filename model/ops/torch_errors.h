#pragma once

#include <string_view>

#include <c10/util/Exception.h>

namespace lorad {

// Whether LibTorch says by it that memory is full: a device's, by its own allocator, by CUDA's or by cuBLAS', which
// allocates for itself; or the host's that a device reads.
inline bool IsOutOfMemory(const c10::Error& error) {
  constexpr int kMemoryAllocation = 2;  // cudaErrorMemoryAllocation
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  const auto* const of_cuda = dynamic_cast<const c10::AcceleratorError*>(&error);
  if (of_cuda != nullptr) return of_cuda->get_error_code() == kMemoryAllocation;
  const std::string_view message = error.what_without_backtrace();
  return message.find("CUBLAS_STATUS_ALLOC_FAILED") != std::string_view::npos;
}

}  // namespace lorad
