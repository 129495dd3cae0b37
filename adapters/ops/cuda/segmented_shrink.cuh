#pragma once

#include "adapters/ops/cuda/segmented_pairs.cuh"

// h = x A^T of tiles of few rows. A step of decodes waits for memory that answers late, not for arithmetic: so a
// block's warps have the width in turns, and a lane asks for its numbers of all kRanksPerBlock ranks before it needs
// the first.
namespace lorad::cuda {

inline constexpr int kShrinkWarps = 8;
inline constexpr int kShrinkThreads = kShrinkWarps * kWarp;
using ShrinkSums = SharedArray<float, kShrinkWarps * kRowsPerTile * kRanksPerBlock>;

// Sums each of v [kCount] over the lanes, in WarpSum's order. Of them lane l keeps kCount / 32, or one, in v[0] and on:
// those from l kCount / 32 on.
template <int kCount, int kDistance = kWarp / 2>
__device__ inline void SumOverLanes(float* v) {
  if constexpr (kDistance > 0 && kCount > 1) {
    const bool upper = (Lane() & kDistance) != 0;
    for (int i = 0; i < kCount / 2; ++i) {
      const float given = upper ? v[i] : v[i + kCount / 2];
      v[i] = (upper ? v[i + kCount / 2] : v[i]) + __shfl_xor_sync(kAllLanes, given, kDistance);
    }
    SumOverLanes<kCount / 2, kDistance / 2>(v);
  } else if constexpr (kDistance > 0) {
    v[0] += __shfl_xor_sync(kAllLanes, v[0], kDistance);
    SumOverLanes<1, kDistance / 2>(v);
  }
}

// h [kRows, tile.ranks] of kRanksPerBlock rows of A at most; a tile of one row has a form of its own, which holds eight
// times fewer sums. The order of a sum is that of `width`, whatever kRows and kWide are.
template <int kRows, bool kWide, typename T>
__device__ void ShrinkRanks(const ShrinkInput<T>& input, const RowTile& tile, const T* a, int ranks, ShrinkSums& parts,
                            float* h) {
  constexpr int kSums = kRows * kRanksPerBlock, kOfLane = kSums > kWarp ? kSums / kWarp : 1;
  constexpr int kLanesOfSum = kSums < kWarp ? kWarp / kSums : 1;
  float sums[kSums] = {};
  // Held over the loop are numbers of 32 bits, and addresses are made of them where they are needed: of 64 bits, one
  // for each row of A and of x, they would take the registers of sums.
  const int width = static_cast<int>(input.width);
  int32_t rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = InputRowOf(input, tile.first_row + (r < tile.rows ? r : tile.rows - 1));
  for (int i = static_cast<int>(threadIdx.x) * kEight; i < width; i += kShrinkThreads * kEight) {
    float of_a[kRanksPerBlock][kEight], of_x[kEight];
    for (int j = 0, at = i; j < kRanksPerBlock; ++j) {
      LoadUpTo<kEight>(kWide, a + at, width - i, of_a[j]);
      // Beyond the last the last again, as with rows: no load waits for a condition.
      at += j + 1 < ranks ? width : 0;
    }
    for (int r = 0; r < kRows; ++r) {
      LoadUpTo<kEight>(kWide, input.x.row(rows[r]) + i, width - i, of_x);
      for (int j = 0; j < kRanksPerBlock; ++j) {
        float& sum = sums[r * kRanksPerBlock + j];
        for (int k = 0; k < kEight; ++k) sum = fmaf(of_a[j][k], of_x[k], sum);
      }
    }
  }
  SumOverLanes<kSums>(sums);
  if (Lane() % kLanesOfSum == 0) {
    const int first = WarpOfBlock() * kSums + Lane() / kLanesOfSum * kOfLane;
    for (int i = 0; i < kOfLane; ++i) parts[first + i] = sums[i];
  }
  __syncthreads();
  const int r = static_cast<int>(threadIdx.x) / kRanksPerBlock, j = static_cast<int>(threadIdx.x) % kRanksPerBlock;
  if (r >= tile.rows || j >= ranks) return;
  float sum = 0.0f;
  for (int w = 0; w < kShrinkWarps; ++w) sum += parts[w * kSums + r * kRanksPerBlock + j];
  h[r * tile.ranks + j] = sum;
}

// Block (tile, n): the n-th kRanksPerBlock ranks of the tile's pairs.
template <typename T>
__global__ void __launch_bounds__(kShrinkThreads, 2) ShrinkKernel(SegmentedWork work, ShrinkInput<T> input) {
  __shared__ ShrinkSums parts;
  static_assert(kShrinkThreads >= kRowsPerTile * kRanksPerBlock);
  const RowTile tile = work.tiles[blockIdx.x];
  int64_t blocks_before = 0;
  ForEachPair(work, tile, [&](int32_t t, int32_t, const SlotWeights& w, int64_t h_column) {
    const int64_t ranks = RanksOf(w), first = (blockIdx.y - blocks_before) * kRanksPerBlock;
    blocks_before += (ranks + kRanksPerBlock - 1) / kRanksPerBlock;
    if (first >= ranks) return false;
    const T* a = reinterpret_cast<const T*>(w.a) + (FirstRankOf(w, work.terms[t]) + first) * input.width;
    const int count = static_cast<int>(ranks - first < kRanksPerBlock ? ranks - first : kRanksPerBlock);
    float* h = work.h + tile.h_offset + h_column + first;
    const bool wide =
        input.width % kEight == 0 && input.x.stride % kEight == 0 && IsAligned(input.x.data) && IsAligned(a);
    if (!wide) {  // of no model: a form of one row is enough, and another of several would take registers of all
      ForEachRow(tile, [&](const RowTile& row) {
        ShrinkRanks<1, false>(input, row, a, count, parts, h + (row.h_offset - tile.h_offset));
        __syncthreads();
      });
    } else if (tile.rows > 1) {
      ShrinkRanks<kRowsPerTile, true>(input, tile, a, count, parts, h);
    } else {
      ShrinkRanks<1, true>(input, tile, a, count, parts, h);
    }
    return true;
  });
}

}  // namespace lorad::cuda
