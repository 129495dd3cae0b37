#pragma once

#include <utility>

#include <c10/cuda/CUDAStream.h>

// Stands in for LibTorch's.
namespace c10::cuda {

struct CUDAStreamGuard {
  explicit CUDAStreamGuard(CUDAStream stream) : before(std::exchange(CurrentOfThread(), stream)) {}
  ~CUDAStreamGuard() { CurrentOfThread() = before; }
  CUDAStreamGuard(const CUDAStreamGuard&) = delete;
  CUDAStreamGuard& operator=(const CUDAStreamGuard&) = delete;

  const CUDAStream before;
};

}  // namespace c10::cuda
