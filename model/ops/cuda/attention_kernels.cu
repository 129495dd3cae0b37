#include "model/ops/cuda/attention_kernels.cuh"

#include "model/base/round_up.h"
#include "model/ops/cuda/launch.h"

namespace lorad::cuda {

template <typename T, typename W>
cudaError_t LaunchRopeKvWrite(const RopeRows<T>& rows, const W* q_norm, const W* k_norm, cudaStream_t stream) {
  const int64_t blocks = CeilDiv(rows.heads + 2 * rows.kv.kv_heads, kHeadsOfBlock);
  return Launch(&RopeKvWriteKernel<T, W>, Grid(rows.rows, blocks), kHeadsOfBlock * kWarp, stream, rows, q_norm, k_norm);
}

template <typename T>
cudaError_t LaunchPagedAttention(const AttentionRows<T>& rows, cudaStream_t stream) {
  return Launch(&PagedAttentionKernel<T>, Grid(rows.rows, rows.heads), kAttentionWarps * kWarp, stream, rows);
}

template cudaError_t LaunchRopeKvWrite(const RopeRows<float>&, const float*, const float*, cudaStream_t);
template cudaError_t LaunchRopeKvWrite(const RopeRows<Bf16>&, const float*, const float*, cudaStream_t);
template cudaError_t LaunchRopeKvWrite(const RopeRows<Bf16>&, const Bf16*, const Bf16*, cudaStream_t);
template cudaError_t LaunchPagedAttention(const AttentionRows<float>&, cudaStream_t);
template cudaError_t LaunchPagedAttention(const AttentionRows<Bf16>&, cudaStream_t);

}  // namespace lorad::cuda
