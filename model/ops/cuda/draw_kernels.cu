#include "model/ops/cuda/draw_kernels.cuh"

#include <algorithm>

#include "model/ops/cuda/launch.h"

namespace lorad::cuda {

cudaError_t LaunchDrawRows(const DrawnLogits& logits, int64_t rows, int64_t vocab, cudaStream_t stream) {
  const auto threads = static_cast<int>(std::clamp<int64_t>((vocab + kWarp - 1) / kWarp * kWarp, kWarp, kDrawThreads));
  return Launch(&DrawRowsKernel, Grid(rows), threads, stream, logits);
}

cudaError_t LaunchPutDrawnTokens(const DrawnTokens& drawn, int32_t* ids, int64_t count, cudaStream_t stream) {
  constexpr int kThreads = 256;
  return Launch(&PutDrawnTokensKernel, Grid((count + kThreads - 1) / kThreads), kThreads, stream, drawn, ids, count);
}

}  // namespace lorad::cuda
