#include "model/ops/cuda/flashinfer_attention.h"

#include "model/ops/cuda/fast_attention.h"

namespace lorad::cuda {
namespace {

int32_t TileRows(int64_t head_dim, int64_t packed_rows) {
  return packed_rows <= kFewTileRows ? kFewTileRows : ManyTileRows(head_dim);
}

int64_t BlocksAtOnce() {
  constexpr int64_t kOfOneProcessor = 2;
  int device = 0, processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  return kOfOneProcessor * processors;
}

cudaError_t Run(const AttentionRows<__nv_bfloat16>& rows, const AttentionTiles& tiles, cudaStream_t stream) {
  switch (rows.kv.head_dim) {
    case 64:
      return RunFlashInfer64(rows, tiles, stream);
    case 128:
      return RunFlashInfer128(rows, tiles, stream);
    case 256:
      return RunFlashInfer256(rows, tiles, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace

const FastAttention& LinkedFastAttention() {
  static const FastAttention flashinfer = {.name = "FlashInfer",
                                           .head_dims = {64, 128, 256},
                                           .caps = [](int64_t head_dim) { return head_dim == 256; },
                                           .tile_rows = &TileRows,
                                           .blocks_at_once = &BlocksAtOnce,
                                           .run = &Run};
  return flashinfer;
}

}  // namespace lorad::cuda
