#pragma once

#include "adapters/ops/cuda/replaced_kernels.h"
#include "model/ops/cuda/device_code.cuh"

namespace lorad::cuda {

// Which of the slot's rows stands for this token; -1: none.
__device__ inline int64_t FindReplacement(const SlotWeights& w, int32_t token) {
  if (w.row_ids == nullptr) return token >= 0 && token < w.num_rows ? token : -1;
  int32_t low = 0, high = w.num_rows;
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (w.row_ids[middle] < token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < w.num_rows && w.row_ids[low] == token ? low : -1;
}

// Block (tile, row of the tile).
template <typename T>
__global__ void ReplaceEmbeddingRowsKernel(const ReplacedTile* tiles, const int32_t* ids, int64_t width, Rows<T> y) {
  const ReplacedTile& tile = tiles[blockIdx.x];
  if (static_cast<int>(blockIdx.y) >= tile.rows) return;
  const int64_t r = tile.first_row + blockIdx.y, found = FindReplacement(tile.weights, ids[r]);
  if (found < 0) return;
  const T* row = reinterpret_cast<const T*>(tile.weights.rows) + found * width;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) y.row(r)[i] = row[i];
}

// Block (tile, n): a warp for each of the slot's rows n * warps …, for all rows of x, so that it is read once. Sums in
// the order of `width`.
template <typename T>
__global__ void ReplaceHeadRowsKernel(const ReplacedTile* tiles, Rows<const T> x, int64_t width, Rows<T> y,
                                      int64_t columns) {
  const ReplacedTile& tile = tiles[blockIdx.x];
  const SlotWeights& w = tile.weights;
  const int64_t step = int64_t{gridDim.y} * WarpsOfBlock();
  const bool wide = width % kEight == 0 && x.stride % kEight == 0 && IsAligned(x.data) && IsAligned(w.rows);
  for (int64_t i = int64_t{blockIdx.y} * WarpsOfBlock() + WarpOfBlock(); i < w.num_rows; i += step) {
    const int64_t column = w.row_ids == nullptr ? i : w.row_ids[i];
    if (column >= columns) continue;
    const T* row = reinterpret_cast<const T*>(w.rows) + i * width;
    float sums[kRowsPerTile] = {};
    for (int64_t k = Lane() * kEight; k < width; k += kWarp * kEight) {
      float of_row[kEight], of_x[kEight];
      LoadUpTo<kEight>(wide, row + k, width - k, of_row);
      for (int r = 0; r < kRowsPerTile; ++r) {
        if (r >= tile.rows) continue;
        LoadUpTo<kEight>(wide, x.row(tile.first_row + r) + k, width - k, of_x);
        for (int e = 0; e < kEight; ++e) sums[r] = fmaf(of_row[e], of_x[e], sums[r]);
      }
    }
    for (int r = 0; r < kRowsPerTile; ++r) {
      if (r >= tile.rows) continue;
      const float sum = WarpSum(sums[r]);
      if (Lane() == 0) Put(sum, y.row(tile.first_row + r) + column);
    }
  }
}

}  // namespace lorad::cuda
