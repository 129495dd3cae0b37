#pragma once

#include "adapters/ops/cuda/long_segment_kernels.h"
#include "adapters/ops/cuda/segmented_pairs.cuh"
#include "model/ops/cuda/operand_tiles.cuh"

// A warp has 16 rows of a tile in both kernels. A warp without rows loads with the others and multiplies nothing.
namespace lorad::cuda {

inline constexpr int kWarpsOfTile = kRowsPerLongTile / kMmaRows;

// The row of A that makes column h_column of the tile's h; its pairs lie there side by side.
__device__ inline const Bf16* RowOfA(const SegmentedWork& work, const RowTile& tile, int64_t h_column, int64_t width) {
  const Bf16* row = nullptr;
  ForEachPair(work, tile, [&](int32_t t, int32_t, const SlotWeights& w, int64_t first) {
    if (h_column >= first + RanksOf(w)) return false;
    row = reinterpret_cast<const Bf16*>(w.a) + (FirstRankOf(w, work.terms[t]) + h_column - first) * width;
    return true;
  });
  return row;
}

// Block (tile, n): kRanksPerLongBlock columns of the tile's h, of whatever pairs, over the slice n % h_slices of the
// width. A step's numbers are loaded into registers while those of the step before are multiplied.
inline constexpr int kLongShrinkThreads = kWarpsOfTile * kWarp;
__global__ void __launch_bounds__(kLongShrinkThreads) LongShrinkKernel(SegmentedWork work, ShrinkInput<Bf16> input) {
  constexpr int kStep = 64;  // of the width
  constexpr int kThreadsOfRow = kStep / kEight;
  // A thread loads eight numbers of one row of each kMmaRows, of x and of A.
  constexpr int kLoads = kWarpsOfTile;
  static_assert(kLongShrinkThreads / kThreadsOfRow == kMmaRows && kRanksPerLongBlock == kRowsPerLongTile);
  __shared__ RowsOperand<kRowsPerLongTile, kStep> of_x;
  __shared__ RowsOperand<kRanksPerLongBlock, kStep> of_a;

  const RowTile tile = work.tiles[work.num_tiles + blockIdx.x];
  const int64_t slice = blockIdx.y % work.h_slices, first = blockIdx.y / work.h_slices * kRanksPerLongBlock;
  if (first >= tile.ranks) return;
  const int ranks = static_cast<int>(tile.ranks - first < kRanksPerLongBlock ? tile.ranks - first : kRanksPerLongBlock);
  const int row_of_load = static_cast<int>(threadIdx.x) / kThreadsOfRow;
  const int in_step = static_cast<int>(threadIdx.x) % kThreadsOfRow * kEight;
  const Bf16* rows_of_x[kLoads];
  const Bf16* rows_of_a[kLoads];
  for (int i = 0; i < kLoads; ++i) {
    const int row = i * kMmaRows + row_of_load;
    rows_of_x[i] = row < tile.rows ? InputRow(input, tile.first_row + row) + in_step : nullptr;
    rows_of_a[i] = row < ranks ? RowOfA(work, tile, first + row, input.width) + in_step : nullptr;
  }
  EightBits next_x[kLoads], next_a[kLoads];
  const auto load = [&](int64_t k) {
    const int64_t left = input.width - k - in_step;
    for (int i = 0; i < kLoads; ++i) {
      next_x[i] = rows_of_x[i] == nullptr ? EightBits{} : LoadEightBits(rows_of_x[i] + k, left);
      next_a[i] = rows_of_a[i] == nullptr ? EightBits{} : LoadEightBits(rows_of_a[i] + k, left);
    }
  };

  const int64_t steps = (input.width + kStep - 1) / kStep, steps_of_slice = (steps + work.h_slices - 1) / work.h_slices;
  const int64_t begin = slice * steps_of_slice * kStep, slice_end = begin + steps_of_slice * kStep;
  const int64_t end = slice_end < input.width ? slice_end : input.width;
  const int first_row = WarpOfBlock() * kMmaRows;
  float sums[kRanksPerLongBlock / kMmaColumns][4] = {};
  if (begin < end) load(begin);
  for (int64_t k = begin; k < end; k += kStep) {
    __syncthreads();  // the step before has been multiplied
    for (int i = 0; i < kLoads; ++i) {
      if (i * kMmaRows < tile.rows) of_x.PutEight(i * kMmaRows + row_of_load, in_step, next_x[i]);
      if (i * kMmaRows < ranks) of_a.PutEight(i * kMmaRows + row_of_load, in_step, next_a[i]);
    }
    __syncthreads();
    if (k + kStep < end) load(k + kStep);
    if (first_row >= tile.rows) continue;
    for (int at = 0; at < kStep; at += kMmaDepth) {
      unsigned a[4], b[2];
      of_x.LoadA(first_row, at, a);
      for (int n = 0; n < kRanksPerLongBlock / kMmaColumns; ++n) {
        if (n * kMmaColumns >= ranks) continue;
        of_a.LoadB(n * kMmaColumns, at, b);
        MmaBf16(sums[n], a, b);
      }
    }
  }

  for (int n = 0; n < kRanksPerLongBlock / kMmaColumns; ++n) {
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + Lane() / 4 + i / 2 * 8, rank = n * kMmaColumns + Lane() % 4 * 2 + i % 2;
      if (row >= tile.rows || rank >= ranks) continue;
      work.h[tile.h_offset + (slice * tile.rows + row) * tile.ranks + first + rank] = sums[n][i];
    }
  }
}

// Of h, kRanksAtOnce ranks from `first` on: as the sum of two bf16, which hold 16 bits of it.
inline constexpr int kLongExpandThreads = 2 * kWarpsOfTile * kWarp, kRanksAtOnce = 32;
struct SplitH {
  RowsOperand<kRowsPerLongTile, kRanksAtOnce> high, low;

  __device__ void Load(const SegmentedWork& work, const RowTile& tile, int64_t h_column, int count) {
    constexpr int kPairs = kRanksAtOnce / 2;
    for (int i = static_cast<int>(threadIdx.x); i < kRowsPerLongTile * kPairs; i += kLongExpandThreads) {
      const int row = i / kPairs, rank = i % kPairs * 2;
      float values[2] = {}, rest[2];
      for (int j = 0; j < 2; ++j) {
        if (row < tile.rows && rank + j < count) {
          for (int slice = 0; slice < work.h_slices; ++slice) {
            values[j] += work.h[tile.h_offset + (slice * tile.rows + row) * tile.ranks + h_column + rank + j];
          }
        }
        const float rounded = Rounded<Bf16>(values[j]);
        rest[j] = rounded - rounded == 0.0f ? values[j] - rounded : 0.0f;  // an infinity has none
      }
      high.PutPair(row, rank, PairOf(values[0], values[1]));
      low.PutPair(row, rank, PairOf(rest[0], rest[1]));
    }
  }
};

// kRanksAtOnce ranks of B from b [count, columns] on, of its columns c … c + kColumnsPerLongBlock.
using TileOfB = ColumnsOperand<kRanksAtOnce, kColumnsPerLongBlock>;
__device__ inline void LoadB(const Bf16* b, int count, int64_t columns, int64_t c, TileOfB& tile) {
  constexpr int kLoadsOfRow = kColumnsPerLongBlock / kEight;
  static_assert(kLongExpandThreads == kRanksAtOnce / 2 * kLoadsOfRow);
  const int rank = static_cast<int>(threadIdx.x) / kLoadsOfRow * 2;
  const int in_tile = static_cast<int>(threadIdx.x) % kLoadsOfRow * kEight;
  const Bf16* from = b + rank * columns + c + in_tile;
  const int64_t left = columns - c - in_tile;
  const EightBits even = LoadEightBits(from, rank < count ? left : 0);
  tile.PutEight(rank, in_tile, even, LoadEightBits(from + columns, rank + 1 < count ? left : 0));
}

// Of the warp's rows and columns, over `count` ranks.
__device__ inline void AddProducts(SplitH& h, int first_row, TileOfB& of_b, int first_column, int count,
                                   float (&sums)[kColumnsOfLane / 2][4]) {
  for (int k = 0; k < count; k += kMmaDepth) {
    unsigned high[4], low[4], columns[2];
    h.high.LoadA(first_row, k, high);
    h.low.LoadA(first_row, k, low);
    for (int n = 0; n < kColumnsOfLane / 2; ++n) {
      of_b.LoadB(first_column, n, k, columns);
      MmaBf16(sums[n], low, columns);
      MmaBf16(sums[n], high, columns);
    }
  }
}

// Block (tile, n): the n-th kColumnsPerLongBlock columns of the parts. A warp has half of them, a lane kColumnsOfLane
// neighbours in each of two rows; y stays in its registers over the terms, rounded after each of them.
__global__ void __launch_bounds__(kLongExpandThreads, 2) LongExpandKernel(SegmentedWork work, Rows<Bf16> y) {
  static_assert(kColumnsPerLongBlock == 2 * kColumnsOfWarp);
  __shared__ SplitH h;
  __shared__ TileOfB of_b;
  __shared__ SharedArray<ColumnOfTerm, kColumnsPerLongBlock> of_term;
  const RowTile tile = work.tiles[work.num_tiles + blockIdx.x];
  const ColumnBlock block = ColumnBlockOf(work, blockIdx.y, kColumnsPerLongBlock);
  const SegmentedPart of = work.parts[block.part];
  const int first_row = WarpOfBlock() % kWarpsOfTile * kMmaRows;
  const int columns_of_warp = WarpOfBlock() / kWarpsOfTile * kColumnsOfWarp;
  const int in_block = columns_of_warp + Lane() % 4 * kColumnsOfLane;
  const int64_t c = block.first + in_block;
  // fn(r, row): the lane's rows that there are.
  const auto for_each_row = [&](const auto& fn) {
    for (int r = 0; r < 2; ++r) {
      const int row = first_row + Lane() / 4 + 8 * r;
      if (row < tile.rows) fn(r, y.row(tile.first_row + row) + of.first_column + c);
    }
  };
  bool touched = false;  // the same in all threads
  EightBits values[2][kColumnsOfLane / kEight] = {};

  ForEachPair(work, tile, [&](int32_t t, int32_t p, const SlotWeights& w, int64_t h_column) {
    if (p != block.part) return false;
    if (!touched) {
      for_each_row([&](int r, const Bf16* from) {
        for (int k = 0; k < kColumnsOfLane; k += kEight) {
          values[r][k / kEight] = LoadEightBits(from + k, of.columns - c - k);
        }
      });
    }
    touched = true;
    const SlotTerm term = work.terms[t];
    const int ranks = static_cast<int>(RanksOf(w));
    const Bf16* b = reinterpret_cast<const Bf16*>(w.b_t) + FirstRankOf(w, term) * of.columns;
    __syncthreads();  // of_term's columns of the term before have been read
    if (const int i = static_cast<int>(threadIdx.x); i < kColumnsPerLongBlock) {
      const TermOfColumns of_block = TermOf(w, term, of.columns, block.first, BiasAfter(work, tile, t, block.part));
      of_term[i] = block.first + i < of.columns ? ColumnOf(of_block, of.columns, i) : ColumnOfTerm{};
    }
    float sums[kColumnsOfLane / 2][4] = {};
    for (int first = 0; first < ranks; first += kRanksAtOnce) {
      const int count = ranks - first < kRanksAtOnce ? ranks - first : kRanksAtOnce;
      __syncthreads();
      h.Load(work, tile, h_column + first, count);
      LoadB(b + first * of.columns, count, of.columns, block.first, of_b);
      __syncthreads();
      if (first_row < tile.rows) AddProducts(h, first_row, of_b, columns_of_warp, count, sums);
    }
    __syncthreads();
    for (int n = 0; n < kColumnsOfLane / 2; ++n) {
      const ColumnOfTerm first = of_term[in_block + 2 * n], second = of_term[in_block + 2 * n + 1];
      for (int r = 0; r < 2; ++r) {
        unsigned& pair = values[r][n / 4].pairs[n % 4];
        pair = PairOf(Updated<Bf16>(FirstOf(pair), sums[n][2 * r], first),
                      Updated<Bf16>(SecondOf(pair), sums[n][2 * r + 1], second));
      }
    }
    return false;
  });

  if (!touched) return;
  for_each_row([&](int r, Bf16* to) {
    for (int k = 0; k < kColumnsOfLane; k += kEight) StoreEightBits(values[r][k / kEight], of.columns - c - k, to + k);
  });
}

}  // namespace lorad::cuda
