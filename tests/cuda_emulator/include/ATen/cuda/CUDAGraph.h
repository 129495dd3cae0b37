#pragma once

#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/Allocator.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

#include <optional>
#include <stdexcept>
#include <utility>

#include "tests/cuda_emulator/capture.h"

// Stands in for LibTorch's graphs, as of 2.11: a capture that ends by an error leaves its pools as they are.
namespace at::cuda {

inline c10::MempoolId_t graph_pool_handle() {
  static c10::CaptureId_t last = 0;
  return {0, ++last};
}

struct CUDAGraph {
  CUDAGraph() = default;
  CUDAGraph(const CUDAGraph&) = delete;
  CUDAGraph& operator=(const CUDAGraph&) = delete;
  ~CUDAGraph() {
    launches.reset();
    if (!ended) return;
    lorad::emulator::DevicePools().Release(pool.second);
    at::getHostAllocator(at::kCUDA)->release_pool(pool);
  }

  // The stream of the capture stands for the default one: what is queued there is kept at once, in its order.
  void capture_begin(c10::MempoolId_t in, cudaStreamCaptureMode) {
    c10::cuda::CurrentOfThread() = {};
    pool = in;
    lorad::emulator::DevicePools().Begin(pool.second);
    at::getHostAllocator(at::kCUDA)->begin_allocate_to_pool(pool, [](c10::Stream) { return true; });
    launches.emplace(pool.second).Begin();
  }
  void capture_end() {
    bool joined = true;
    for (lorad::emulator::Stream* const stream : c10::cuda::StreamsOfThread()) {
      joined &= std::exchange(stream->waiting, {}).empty();
      stream->captured = false;
    }
    launches->End();
    if (!joined) throw std::runtime_error("a stream of the capture is not joined");
    lorad::emulator::DevicePools().End(pool.second);
    at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(pool);
    ended = true;
  }
  void replay() { launches->Replay(); }

  std::optional<lorad::emulator::CapturedLaunches> launches;
  c10::MempoolId_t pool;
  bool ended = false;
};

}  // namespace at::cuda
