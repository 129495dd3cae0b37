#include "model/ops/cuda/flashinfer_attention.cuh"

namespace lorad::cuda {

cudaError_t RunFlashInfer128(const AttentionRows<__nv_bfloat16>& rows, const AttentionTiles& tiles,
                             cudaStream_t stream) {
  return tiles.tile_rows == kFewTileRows ? RunFlashInferTiles<128, kFewTileRows, false>(rows, tiles, stream)
                                         : RunFlashInferTiles<128, ManyTileRows(128), false>(rows, tiles, stream);
}

}  // namespace lorad::cuda
