#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include "model/ops/cuda/row_kernels.h"

// Rope, the KV cache's writing and attention over it, queued on a stream; the contracts are those of RopeKvWrite and
// PagedAttention. Pointers are the device's. T is float or __nv_bfloat16.
namespace lorad::cuda {

// One layer of the cache: `model/kv/kv_layout.h` as the kernels need it.
struct KvLayer {
  std::byte* arena;
  int64_t page_bytes;
  int64_t key_offset_bytes;  // of the layer's first head in a block
  int64_t value_offset_bytes;
  int64_t head_bytes;  // between two heads' tokens
  int64_t head_dim;
  int64_t kv_heads;
};

template <typename T>
struct RopeRows {
  int64_t rows;
  int64_t heads;
  Rows<T> qkv;
  const int32_t* positions;  // [rows]; one outside the table makes q NaN and writes no KV
  int64_t max_positions;
  int64_t half;             // of the rotated columns of a head
  const T* cos;             // [max_positions, half]
  const T* sin;             // [max_positions, half]
  const int32_t* kv_slots;  // [rows]; a negative one is not written
  float norm_eps;
  KvLayer kv;
};
// Weights of the heads' norms [head_dim], or nullptr. W: T, or float.
template <typename T, typename W>
cudaError_t LaunchRopeKvWrite(const RopeRows<T>& rows, const W* q_norm, const W* k_norm, cudaStream_t stream);

template <typename T>
struct AttentionRows {
  int64_t rows;
  int64_t heads;
  Rows<const T> q;
  Rows<T> y;
  // A row that no sequence has, or that needs a block that its table does not have, becomes NaN.
  const int32_t* positions;  // [rows]
  const int32_t* cu_rows;    // [sequences + 1]
  int64_t sequences;
  const int32_t* block_table;  // [sequences, blocks_per_sequence]; negative: no block
  int64_t blocks_per_sequence;
  int64_t window_tokens;
  float scale;
  float softcap;
  KvLayer kv;
};
inline constexpr int64_t kMaxHeadDim = 512;  // of the kernel's shared memory
template <typename T>
cudaError_t LaunchPagedAttention(const AttentionRows<T>& rows, cudaStream_t stream);

}  // namespace lorad::cuda
