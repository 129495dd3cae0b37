#pragma once

#include <c10/core/Device.h>
#include <cuda_runtime.h>

#include <deque>

// Stands in for LibTorch's: kernels on the default stream run at once, on another when somebody waits for it.
namespace c10::cuda {

struct CUDAStream {
  cudaStream_t of_pool = nullptr;
  cudaStream_t stream() const { return of_pool; }
  DeviceIndex device_index() const { return 0; }
};
inline CUDAStream& CurrentOfThread() {
  static thread_local CUDAStream current;
  return current;
}
inline CUDAStream getCurrentCUDAStream(DeviceIndex = -1) { return CurrentOfThread(); }
// As LibTorch's pool, it keeps them.
inline std::deque<lorad::emulator::Stream*>& StreamsOfThread() {
  static thread_local std::deque<lorad::emulator::Stream*> streams;
  return streams;
}
inline CUDAStream getStreamFromPool(bool /*isHighPriority*/ = false) {
  return {StreamsOfThread().emplace_back(new lorad::emulator::Stream)};
}

}  // namespace c10::cuda
