#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda_bf16.h>

#include "model/ops/cuda/quantized_kernels.h"

// Products of bf16 rows with quantised weights on tensor cores, queued on a stream: for as many rows as make arithmetic
// outside of them slow, and not so many that W' is worth writing once. Each byte of the weight is read from memory
// once.
namespace lorad::cuda {

inline constexpr int64_t kLeastTiledRows = 5, kMostTiledRows = 128;

// How many inputs a block multiplies at a time, and of how many columns.
inline constexpr int64_t kTileStepInputs = 2 * kQuantizedGroup, kTileColumns = 128;

// Into how many slices, summed apart, the inputs are cut: several where the columns alone do not keep a device busy. By
// the weight's shape alone, and so is the order of a row's sums.
constexpr int64_t SlicesOfInputs(int64_t in, int64_t columns) {
  constexpr int64_t kBlocks = 264, kLeastSteps = 4;  // two blocks of each of 132 multiprocessors; of a slice
  const int64_t steps = (in + kTileStepInputs - 1) / kTileStepInputs;
  const int64_t column_blocks = (columns + kTileColumns - 1) / kTileColumns;
  const int64_t wanted = std::clamp<int64_t>(kBlocks / column_blocks, 1, std::max<int64_t>(1, steps / kLeastSteps));
  const int64_t steps_of_slice = (steps + wanted - 1) / wanted;
  return (steps + steps_of_slice - 1) / steps_of_slice;
}

// Floats of scratch of a product of `rows`.
int64_t QuantizedTilesScratch(const QuantizedColumns& weight, int64_t rows);

// y[r, c] = sum_k x[r, k] W'[c, k] of kMostTiledRows rows or fewer. q is multiplied exactly and summed in f32, factors
// are put on sums: int8's and int4's on a group's. A result is the same bits whatever rows are beside it, as far as a
// tensor core gives an element the same bits wherever it lies.
cudaError_t LaunchQuantizedTiles(const QuantizedColumns& weight, int64_t rows, const Rows<const __nv_bfloat16>& x,
                                 const Rows<__nv_bfloat16>& y, float* scratch, cudaStream_t stream);

}  // namespace lorad::cuda
