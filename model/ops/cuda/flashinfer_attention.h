#pragma once

#include <cuda_bf16.h>

#include "model/ops/cuda/attention_tiles.h"

// FlashInfer's paged attention by head size, one source each, since each takes its compiler long. A tile has
// kFewTileRows or, where a sequence has more, ManyTileRows.
namespace lorad::cuda {

inline constexpr int32_t kFewTileRows = 16;
inline constexpr int32_t ManyTileRows(int64_t head_dim) { return head_dim < 256 ? 128 : 64; }

cudaError_t RunFlashInfer64(const AttentionRows<__nv_bfloat16>& rows, const AttentionTiles& tiles, cudaStream_t stream);
cudaError_t RunFlashInfer128(const AttentionRows<__nv_bfloat16>& rows, const AttentionTiles& tiles,
                             cudaStream_t stream);
// With a softcap, too (Gemma 2).
cudaError_t RunFlashInfer256(const AttentionRows<__nv_bfloat16>& rows, const AttentionTiles& tiles,
                             cudaStream_t stream);

}  // namespace lorad::cuda
