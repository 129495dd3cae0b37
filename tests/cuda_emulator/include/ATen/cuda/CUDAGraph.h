#pragma once

#include <c10/core/Allocator.h>
#include <cuda_runtime.h>

#include <optional>

#include "tests/cuda_emulator/capture.h"

// Stands in for LibTorch's graphs.
namespace at::cuda {

inline c10::MempoolId_t graph_pool_handle() {
  static c10::CaptureId_t last = 0;
  return {0, ++last};
}

struct CUDAGraph {
  void capture_begin(c10::MempoolId_t pool, cudaStreamCaptureMode) { launches.emplace(pool.second).Begin(); }
  void capture_end() { launches->End(); }
  void replay() { launches->Replay(); }

  std::optional<lorad::emulator::CapturedLaunches> launches;
};

}  // namespace at::cuda
