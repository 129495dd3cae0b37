#pragma once

#include "adapters/ops/cuda/segmented_pairs.cuh"

// y += s h B^T of tiles of few rows, with all that comes with it.
namespace lorad::cuda {

inline constexpr int kExpandThreads = 128;
inline constexpr int kColumnsOfThread = kColumnsPerShortBlock / kExpandThreads;
static_assert(kColumnsOfThread == 4);

// Four consecutive elements, aligned to their size.
__device__ inline void StoreFour(const float* from, float* to) {
  *reinterpret_cast<float4*>(to) = {from[0], from[1], from[2], from[3]};
}
__device__ inline void StoreFour(const float* from, Bf16* to) {
  uint2 bits;  // they are bf16 already
  bits.x = __float_as_uint(from[0]) >> 16 | __float_as_uint(from[1]);
  bits.y = __float_as_uint(from[2]) >> 16 | __float_as_uint(from[3]);
  *reinterpret_cast<uint2*>(to) = bits;
}

// Of B [ranks, columns], a thread's columns of kRanksOfLoad ranks at most: beyond the last the last again, so that no
// load waits for a condition.
inline constexpr int kRanksOfLoad = 8;
template <bool kWide, typename T>
__device__ inline void LoadRanks(const T* b, int64_t columns, int64_t ranks, int64_t left,
                                 float (&to)[kRanksOfLoad][kColumnsOfThread]) {
  for (int j = 0; j < kRanksOfLoad; ++j) {
    LoadUpTo<kColumnsOfThread>(kWide, b + (j < ranks ? j : ranks - 1) * columns, left, to[j]);
  }
}

inline constexpr int kRanksOfH = 64;  // that a block holds at once
using TileOfH = SharedArray<float, kRowsPerTile * kRanksOfH>;

// Adds what the pairs of a tile's rows do to the thread's columns; all threads of a block come along, those without
// columns too (left <= 0). y stays in registers over the terms and is rounded after each of them, as if each were a
// call of its own. What is loaded is asked for a round before it is needed, B before h.
template <int kRows, bool kWide, typename T>
__device__ void ExpandColumns(const SegmentedWork& work, const RowTile& tile, int32_t part, int64_t c, TileOfH& h,
                              const Rows<T>& y) {
  const SegmentedPart of = work.parts[part];
  const int64_t left = of.columns - c;
  bool touched = false;  // the same in all threads
  float values[kRows][kColumnsOfThread] = {};

  ForEachPair(work, tile, [&](int32_t t, int32_t p, const SlotWeights& w, int64_t h_column) {
    if (p != part) return false;
    const SlotTerm term = work.terms[t];
    const TermOfColumns of_term = TermOf(w, term, of.columns, c, BiasAfter(work, tile, t, part));
    const int64_t ranks = RanksOf(w);
    const T* b = reinterpret_cast<const T*>(w.b_t) + FirstRankOf(w, term) * of.columns + c;
    float next[kRanksOfLoad][kColumnsOfThread] = {};
    if (left > 0 && ranks > 0) LoadRanks<kWide>(b, of.columns, ranks, left, next);
    if (!touched && left > 0) {
      for (int r = 0; r < kRows; ++r) {
        if (r < tile.rows)
          LoadUpTo<kColumnsOfThread>(kWide, y.row(tile.first_row + r) + of.first_column + c, left, values[r]);
      }
    }
    touched = true;
    float sums[kRows][kColumnsOfThread] = {};
    for (int64_t first = 0; first < ranks; first += kRanksOfH) {
      const int count = static_cast<int>(ranks - first < kRanksOfH ? ranks - first : kRanksOfH);
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < tile.rows * count; i += kExpandThreads) {
        const int r = i / count, j = i % count;
        h[r * kRanksOfH + j] = work.h[tile.h_offset + r * tile.ranks + h_column + first + j];
      }
      __syncthreads();
      if (left <= 0) continue;
      for (int j = 0; j < count; j += kRanksOfLoad) {
        float of_b[kRanksOfLoad][kColumnsOfThread];
        for (int i = 0; i < kRanksOfLoad; ++i) {
          for (int k = 0; k < kColumnsOfThread; ++k) of_b[i][k] = next[i][k];
        }
        const int64_t behind = first + j + kRanksOfLoad;
        if (behind < ranks) LoadRanks<kWide>(b + behind * of.columns, of.columns, ranks - behind, left, next);
        for (int i = 0; i < kRanksOfLoad; ++i) {
          if (j + i >= count) continue;
          for (int r = 0; r < kRows; ++r) {
            if (r >= tile.rows) continue;
            const float of_h = h[r * kRanksOfH + j + i];
            for (int k = 0; k < kColumnsOfThread; ++k) sums[r][k] = fmaf(of_h, of_b[i][k], sums[r][k]);
          }
        }
      }
    }
    for (int k = 0; k < kColumnsOfThread; ++k) {
      if (kWide ? left <= 0 : k >= left) continue;
      const ColumnOfTerm column = ColumnOf(of_term, of.columns, k);
      for (int r = 0; r < kRows; ++r) values[r][k] = Updated<T>(values[r][k], sums[r][k], column);
    }
    return false;
  });

  if (!touched) return;
  for (int r = 0; r < kRows; ++r) {
    if (r >= tile.rows) continue;
    T* to = y.row(tile.first_row + r) + of.first_column + c;
    if (kWide && left > 0) {
      StoreFour(values[r], to);
      continue;
    }
    for (int k = 0; k < kColumnsOfThread; ++k) {
      if (k < left) Put(values[r][k], to + k);
    }
  }
}

template <typename T>
__device__ inline bool AlignedToFour(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (kColumnsOfThread * sizeof(T)) == 0;
}

// Block (tile, n): the n-th kColumnsPerShortBlock columns of the parts.
template <typename T>
__global__ void __launch_bounds__(kExpandThreads, 3) ExpandKernel(SegmentedWork work, Rows<T> y) {
  __shared__ TileOfH h;
  const RowTile tile = work.tiles[blockIdx.x];
  const ColumnBlock block = ColumnBlockOf(work, blockIdx.y, kColumnsPerShortBlock);
  const SegmentedPart& of = work.parts[block.part];
  const int64_t c = block.first + int64_t{threadIdx.x} * kColumnsOfThread;
  // What the pool packs lies at multiples of 16 bytes.
  const bool wide = (of.columns | of.first_column | y.stride) % kColumnsOfThread == 0 && AlignedToFour(y.data);
  if (!wide) {  // of no model: a form of one row is enough
    ForEachRow(tile, [&](const RowTile& row) { ExpandColumns<1, false>(work, row, block.part, c, h, y); });
  } else if (tile.rows > 1) {
    ExpandColumns<kRowsPerTile, true>(work, tile, block.part, c, h, y);
  } else {
    ExpandColumns<1, true>(work, tile, block.part, c, h, y);
  }
}

}  // namespace lorad::cuda
