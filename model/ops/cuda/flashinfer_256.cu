#include "model/ops/cuda/flashinfer_attention.cuh"

namespace lorad::cuda {
namespace {

template <bool kCapped>
cudaError_t Run(const AttentionRows<__nv_bfloat16>& rows, const AttentionTiles& tiles, cudaStream_t stream) {
  return tiles.tile_rows == kFewTileRows ? RunFlashInferTiles<256, kFewTileRows, kCapped>(rows, tiles, stream)
                                         : RunFlashInferTiles<256, ManyTileRows(256), kCapped>(rows, tiles, stream);
}

}  // namespace

cudaError_t RunFlashInfer256(const AttentionRows<__nv_bfloat16>& rows, const AttentionTiles& tiles,
                             cudaStream_t stream) {
  return rows.softcap > 0.0f ? Run<true>(rows, tiles, stream) : Run<false>(rows, tiles, stream);
}

}  // namespace lorad::cuda
