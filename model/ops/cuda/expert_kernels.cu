#include "model/ops/cuda/expert_kernels.cuh"

#include "model/ops/cuda/launch.h"

namespace lorad::cuda {

template <typename T>
cudaError_t LaunchRouteTopK(const Rows<const T>& logits, int64_t rows, int64_t experts, int64_t k, bool renormalise,
                            int32_t* chosen, float* weights, cudaStream_t stream) {
  return Launch(&RouteTopKKernel<T>, Grid(rows), kWarp, stream, logits, experts, k, renormalise, chosen, weights);
}

template <typename T>
cudaError_t LaunchCombineExperts(const CombinedRows<T>& rows, cudaStream_t stream) {
  const int threads = ThreadsFor(rows.width);
  return Launch(&CombineExpertsKernel<T>, Grid(rows.rows, (rows.width + threads - 1) / threads), threads, stream, rows);
}

template cudaError_t LaunchRouteTopK(const Rows<const float>&, int64_t, int64_t, int64_t, bool, int32_t*, float*,
                                     cudaStream_t);
template cudaError_t LaunchRouteTopK(const Rows<const Bf16>&, int64_t, int64_t, int64_t, bool, int32_t*, float*,
                                     cudaStream_t);
template cudaError_t LaunchCombineExperts(const CombinedRows<float>&, cudaStream_t);
template cudaError_t LaunchCombineExperts(const CombinedRows<Bf16>&, cudaStream_t);

}  // namespace lorad::cuda
