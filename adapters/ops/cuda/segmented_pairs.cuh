#pragma once

#include "adapters/ops/cuda/segmented_kernels.h"
#include "model/ops/cuda/device_code.cuh"

// What the kernels of short and of long segments share: the pairs of a tile, and what a term makes of a column.
namespace lorad::cuda {

__device__ inline bool Adds(const SegmentedWork& work, const SlotWeights& w) {
  return w.rank > 0 || (work.with_bias && w.bias != nullptr);
}
__device__ inline int64_t RanksOf(const SlotWeights& w) {
  return w.router != nullptr ? int64_t{w.experts} * w.rank : w.rank;
}
// Where the term's pair begins in the slot's stack; a slot that routes has all of it.
__device__ inline int64_t FirstRankOf(const SlotWeights& w, const SlotTerm& term) {
  return w.router != nullptr ? 0 : int64_t{term.expert} * w.rank;
}

// Ranks of a term's pairs by part, negative where it adds nothing.
struct RanksOfParts {
  int32_t ranks[kMostParts];
  // No index that only a run knows: they stay in registers.
  __device__ int32_t Of(int32_t part) const {
    return part == 0 ? ranks[0] : part == 1 ? ranks[1] : part == 2 ? ranks[2] : ranks[3];
  }
};
static_assert(kMostParts == 4);
__device__ inline RanksOfParts RanksOfTerm(const SegmentedWork& work, const SlotTerm& term) {
  RanksOfParts of;
  for (int p = 0; p < kMostParts; ++p) {
    // All that is asked for is on its way at once: no load waits for a condition.
    const bool there = p < work.num_parts;
    const SlotWeights& w = work.parts[there ? p : 0].slots[term.slot];
    const int32_t rank = w.rank, ranks = w.router != nullptr ? w.experts * rank : rank;
    const bool has_bias = w.bias != nullptr;
    of.ranks[p] = there & ((rank > 0) | (work.with_bias & has_bias)) ? ranks : -1;
  }
  return of;
}

// fn(term, part, weights, h_column) for each pair of the tile, until it says true.
template <typename Fn>
__device__ void ForEachPair(const SegmentedWork& work, const RowTile& tile, const Fn& fn) {
  int64_t h_column = 0;
  for (int32_t t = tile.first_term; t < tile.end_term; ++t) {
    const SlotTerm term = work.terms[t];
    const RanksOfParts of_term = RanksOfTerm(work, term);
    for (int32_t p = 0; p < work.num_parts; ++p) {
      const int32_t ranks = of_term.Of(p);
      if (ranks < 0) continue;
      if (fn(t, p, work.parts[p].slots[term.slot], h_column)) return;
      h_column += ranks;
    }
  }
}

// fn(tile) for each row of the tile, as a tile of its own.
template <typename Fn>
__device__ void ForEachRow(const RowTile& tile, const Fn& fn) {
  RowTile row = tile;
  row.rows = 1;
  for (int r = 0; r < tile.rows; ++r) {
    fn(row);
    ++row.first_row, row.h_offset += tile.ranks;
  }
}

template <typename T>
__device__ inline int32_t InputRowOf(const ShrinkInput<T>& input, int32_t row) {
  return input.input_rows == nullptr ? row : input.input_rows[row];
}
template <typename T>
__device__ inline const T* InputRow(const ShrinkInput<T>& input, int32_t row) {
  return input.x.row(InputRowOf(input, row));
}

// adapters/dora.h: the factor at the request's scale. dora [3, columns], or nullptr.
__device__ inline float FactorOf(const float* dora, int64_t columns, int c, float scale) {
  if (dora == nullptr) return 1.0f;
  if (scale == 1.0f) return dora[c];
  const float under = 1.0f + (scale - 1.0f) * dora[columns + c] + (scale * scale - 1.0f) * dora[2 * columns + c];
  return dora[c] / sqrtf(under);
}

// What is added with term t: the tile's last bias at this part, unless a later term touches the part.
__device__ inline const float* BiasAfter(const SegmentedWork& work, const RowTile& tile, int32_t t, int32_t part) {
  if (!work.with_bias) return nullptr;
  const SlotWeights* slots = work.parts[part].slots;
  for (int32_t later = t + 1; later < tile.end_term; ++later) {
    if (Adds(work, slots[work.terms[later].slot])) return nullptr;
  }
  const float* bias = nullptr;
  for (; bias == nullptr && t >= tile.first_term; --t) bias = slots[work.terms[t].slot].bias;
  return bias;
}

// A block of so many columns: of which part, and the first of them there.
struct ColumnBlock {
  int32_t part;
  int64_t first;
};
__device__ inline ColumnBlock ColumnBlockOf(const SegmentedWork& work, int64_t block, int columns) {
  for (int32_t part = 0;; ++part) {
    const int64_t blocks = (work.parts[part].columns + columns - 1) / columns;
    if (block < blocks) return {part, block * columns};
    block -= blocks;
  }
}

// What a term makes of columns of its part: the low-rank sum and all that comes with it, in one rounding. Vectors begin
// at the first of these columns, so that what a loop over terms holds are no addresses of single columns; or nullptr.
struct TermOfColumns {
  float scale;          // of the sum
  float request_scale;  // of it, what the request asked for
  const float* dora;    // [3, columns of the part]
  const float* delta_bias;
  const float* bias;
};
__device__ inline const float* From(const float* vector, int64_t first) {
  return vector == nullptr ? nullptr : vector + first;
}
// Of the part's `columns` those from `first` on.
__device__ inline TermOfColumns TermOf(const SlotWeights& w, const SlotTerm& term, int64_t columns, int64_t first,
                                       const float* bias_after) {
  return {.scale = term.scale * w.scale,
          .request_scale = term.scale,
          .dora = From(w.dora, int64_t{term.expert} * 3 * columns + first),
          .delta_bias = From(w.delta_bias, first),
          .bias = From(bias_after, first)};
}
// Of one column.
struct ColumnOfTerm {
  float scale;
  float factor;
  float delta_bias;
  float bias;
  bool has_bias;
};
__device__ inline ColumnOfTerm ColumnOf(const TermOfColumns& term, int64_t columns, int c) {
  return {.scale = term.scale,
          .factor = FactorOf(term.dora, columns, c, term.request_scale),
          .delta_bias = term.delta_bias == nullptr ? 0.0f : term.delta_bias[c],
          .bias = term.bias == nullptr ? 0.0f : term.bias[c],
          .has_bias = term.bias != nullptr};
}
template <typename T>
__device__ float Updated(float value, float sum, const ColumnOfTerm& of) {
  const float updated = of.factor * (value + of.scale * (sum + of.delta_bias));
  return Rounded<T>(of.has_bias ? updated + of.bias : updated);
}

}  // namespace lorad::cuda
