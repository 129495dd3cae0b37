#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

namespace lorad::cuda {

// Queues kernel(arguments…) on `stream`. A call and not <<<…>>>, so that the block emulator launches as well.
template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, int threads, cudaStream_t stream,
                   const Arguments&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// Threads for n elements of a row: whole warps.
inline int ThreadsFor(int64_t n, int64_t most = 256) {
  return static_cast<int>(std::clamp<int64_t>((n + 31) / 32 * 32, 32, most));
}

inline dim3 Grid(int64_t x, int64_t y = 1) { return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)); }

}  // namespace lorad::cuda
