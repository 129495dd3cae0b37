#include "model/ops/cuda/row_kernels.cuh"

#include "model/base/round_up.h"
#include "model/ops/cuda/launch.h"

namespace lorad::cuda {

template <typename T, typename W>
cudaError_t LaunchRmsNorm(const NormedRows<T>& rows, const W* weight, float eps, cudaStream_t stream) {
  const int64_t eights = CeilDiv(rows.width, kEight);
  const int threads = ThreadsFor(eights, kMostNormThreads);
  const auto launch = [&](auto kernel) { return Launch(kernel, Grid(rows.rows), threads, stream, rows, weight, eps); };
  const int64_t of_thread = CeilDiv(eights, threads);
  if (of_thread <= 1) return launch(&RmsNormKernel<T, W, 1>);
  if (of_thread <= 2) return launch(&RmsNormKernel<T, W, 2>);
  static_assert(kMostNormWidth == 4 * kMostNormThreads * kEight);
  return of_thread <= 4 ? launch(&RmsNormKernel<T, W, 4>) : cudaErrorInvalidValue;
}

template <typename T>
cudaError_t LaunchLayerNorm(const NormedRows<T>& rows, const T* weight, const T* bias, float eps, cudaStream_t stream) {
  return Launch(&LayerNormKernel<T>, Grid(rows.rows), ThreadsFor(rows.width), stream, rows, weight, bias, eps);
}

template <typename T>
cudaError_t LaunchActivate(const ActivatedRows<T>& rows, Activation activation, cudaStream_t stream) {
  const int64_t eights = CeilDiv(rows.width, kEight);
  const int threads = ThreadsFor(eights);
  return Launch(&ActivateKernel<T>, Grid(rows.rows, CeilDiv(eights, threads)), threads, stream, rows, activation);
}

template <typename T>
cudaError_t LaunchGatherRows(const GatheredRows<T>& rows, bool add, cudaStream_t stream) {
  const int64_t eights = CeilDiv(rows.width, kEight);
  const int threads = ThreadsFor(eights);
  return Launch(&GatherRowsKernel<T>, Grid(rows.rows, CeilDiv(eights, threads)), threads, stream, rows, add);
}

template cudaError_t LaunchRmsNorm(const NormedRows<float>&, const float*, float, cudaStream_t);
template cudaError_t LaunchRmsNorm(const NormedRows<Bf16>&, const float*, float, cudaStream_t);
template cudaError_t LaunchRmsNorm(const NormedRows<Bf16>&, const Bf16*, float, cudaStream_t);
template cudaError_t LaunchLayerNorm(const NormedRows<float>&, const float*, const float*, float, cudaStream_t);
template cudaError_t LaunchLayerNorm(const NormedRows<Bf16>&, const Bf16*, const Bf16*, float, cudaStream_t);
template cudaError_t LaunchActivate(const ActivatedRows<float>&, Activation, cudaStream_t);
template cudaError_t LaunchActivate(const ActivatedRows<Bf16>&, Activation, cudaStream_t);
template cudaError_t LaunchGatherRows(const GatheredRows<float>&, bool, cudaStream_t);
template cudaError_t LaunchGatherRows(const GatheredRows<Bf16>&, bool, cudaStream_t);

}  // namespace lorad::cuda
