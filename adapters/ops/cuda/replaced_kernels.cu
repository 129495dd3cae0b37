#include "adapters/ops/cuda/replaced_kernels.cuh"

#include "model/ops/cuda/launch.h"

namespace lorad::cuda {

template <typename T>
cudaError_t LaunchReplaceEmbeddingRows(const ReplacedTile* tiles, int64_t num_tiles, const int32_t* ids, int64_t width,
                                       const Rows<T>& y, cudaStream_t stream) {
  return Launch(&ReplaceEmbeddingRowsKernel<T>, Grid(num_tiles, kRowsPerTile), ThreadsFor(width), stream, tiles, ids,
                width, y);
}

template <typename T>
cudaError_t LaunchReplaceHeadRows(const ReplacedTile* tiles, int64_t num_tiles, int64_t most_rows,
                                  const Rows<const T>& x, int64_t width, const Rows<T>& y, int64_t columns,
                                  cudaStream_t stream) {
  constexpr int kWarps = 4;
  constexpr int64_t kMostBlocks = 1024;  // of a tile; a block goes on with the rows that are left
  const int64_t blocks = std::min((most_rows + kWarps - 1) / kWarps, kMostBlocks);
  return Launch(&ReplaceHeadRowsKernel<T>, Grid(num_tiles, blocks), kWarps * kWarp, stream, tiles, x, width, y,
                columns);
}

#define LORAD_FOR_TYPE(T)                                                                                          \
  template cudaError_t LaunchReplaceEmbeddingRows(const ReplacedTile*, int64_t, const int32_t*, int64_t,           \
                                                  const Rows<T>&, cudaStream_t);                                   \
  template cudaError_t LaunchReplaceHeadRows(const ReplacedTile*, int64_t, int64_t, const Rows<const T>&, int64_t, \
                                             const Rows<T>&, int64_t, cudaStream_t)
LORAD_FOR_TYPE(float);
LORAD_FOR_TYPE(Bf16);
#undef LORAD_FOR_TYPE

}  // namespace lorad::cuda
