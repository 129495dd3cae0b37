#pragma once

#include <c10/core/Allocator.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

#include <optional>
#include <stdexcept>
#include <utility>

#include "tests/cuda_emulator/capture.h"

// Stands in for LibTorch's graphs.
namespace at::cuda {

inline c10::MempoolId_t graph_pool_handle() {
  static c10::CaptureId_t last = 0;
  return {0, ++last};
}

struct CUDAGraph {
  // The stream of the capture stands for the default one: what is queued there is kept at once, in its order.
  void capture_begin(c10::MempoolId_t pool, cudaStreamCaptureMode) {
    c10::cuda::CurrentOfThread() = {};
    launches.emplace(pool.second).Begin();
  }
  void capture_end() {
    launches->End();
    for (lorad::emulator::Stream* const stream : c10::cuda::StreamsOfThread()) {
      if (!std::exchange(stream->waiting, {}).empty())
        throw std::runtime_error("a stream of the capture is not joined");
    }
  }
  void replay() { launches->Replay(); }

  std::optional<lorad::emulator::CapturedLaunches> launches;
};

}  // namespace at::cuda
