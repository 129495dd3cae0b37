#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "adapters/ops/row_tiles.h"
#include "model/ops/cuda/row_kernels.h"

// Adapters' own rows of an embedding or a head, queued on a stream; the contract is that of
// adapters/ops/replaced_rows.h.
namespace lorad::cuda {

template <typename T>
cudaError_t LaunchReplaceEmbeddingRows(const ReplacedTile* tiles, int64_t num_tiles, const int32_t* ids, int64_t width,
                                       const Rows<T>& y, cudaStream_t stream);
// y has `columns`; an id beyond them is passed over. most_rows: of all slots.
template <typename T>
cudaError_t LaunchReplaceHeadRows(const ReplacedTile* tiles, int64_t num_tiles, int64_t most_rows,
                                  const Rows<const T>& x, int64_t width, const Rows<T>& y, int64_t columns,
                                  cudaStream_t stream);

}  // namespace lorad::cuda
