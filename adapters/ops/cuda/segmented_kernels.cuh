#pragma once

#include <atomic>

#include "adapters/ops/cuda/segmented_pairs.cuh"

namespace lorad::cuda {

// Block (tile, n): the n-th kRanksPerBlock ranks of the tile's pairs; a warp for each rank, for all rows at once, so
// that A is read once. The order of a sum is that of `width`, aligned or not.
template <typename T>
__global__ void ShrinkKernel(SegmentedWork work, ShrinkInput<T> input) {
  const RowTile tile = work.tiles[blockIdx.x];
  int64_t blocks_before = 0;
  ForEachPair(work, tile, [&](int32_t t, int32_t, const SlotWeights& w, int64_t h_column) {
    const int64_t ranks = RanksOf(w), first = (blockIdx.y - blocks_before) * kRanksPerBlock;
    blocks_before += (ranks + kRanksPerBlock - 1) / kRanksPerBlock;
    if (first >= ranks) return false;
    const T* a = reinterpret_cast<const T*>(w.a) + FirstRankOf(w, work.terms[t]) * input.width;
    const bool wide =
        input.width % kEight == 0 && input.x.stride % kEight == 0 && IsAligned(input.x.data) && IsAligned(a);
    const int64_t end = first + kRanksPerBlock < ranks ? first + kRanksPerBlock : ranks;
    for (int64_t j = first + WarpOfBlock(); j < end; j += WarpsOfBlock()) {
      float sums[kRowsPerTile] = {};
      for (int64_t i = Lane() * kEight; i < input.width; i += kWarp * kEight) {
        float of_a[kEight], of_x[kEight];
        LoadUpToEight(wide, a + j * input.width + i, input.width - i, of_a);
        for (int r = 0; r < kRowsPerTile; ++r) {
          if (r >= tile.rows) continue;
          LoadUpToEight(wide, InputRow(input, tile.first_row + r) + i, input.width - i, of_x);
          for (int k = 0; k < kEight; ++k) sums[r] = fmaf(of_a[k], of_x[k], sums[r]);
        }
      }
      for (int r = 0; r < kRowsPerTile; ++r) {
        if (r >= tile.rows) continue;
        const float sum = WarpSum(sums[r]);
        if (Lane() == 0) work.h[tile.h_offset + r * tile.ranks + h_column + j] = sum;
      }
    }
    return true;
  });
}

// ExpertLoad's counters, in memory that the host reads while kernels run.
__device__ inline void CountRow(std::atomic<int64_t>* counter) {
  static_assert(sizeof(std::atomic<int64_t>) == sizeof(unsigned long long));
  atomicAdd_system(reinterpret_cast<unsigned long long*>(counter), 1ull);
}

// Block (tile, row of the tile), one warp. Of equal logits the lower expert is the likelier.
template <typename T>
__global__ void WeighExpertsKernel(SegmentedWork work, ShrinkInput<T> input, float* all_logits, int64_t max_experts) {
  const RowTile tile = work.tiles[blockIdx.x];
  const int r = static_cast<int>(blockIdx.y);
  if (r >= tile.rows) return;
  const T* x = InputRow(input, tile.first_row + r);
  float* logits = all_logits + (int64_t{blockIdx.x} * kRowsPerTile + r) * max_experts;
  ForEachPair(work, tile, [&](int32_t, int32_t, const SlotWeights& w, int64_t h_column) {
    if (w.router == nullptr || w.rank == 0) return false;
    __syncwarp();  // the slot before has been weighed
    float largest = -INFINITY;
    for (int e = 0; e < w.experts; ++e) {
      float sum = 0.0f;
      for (int64_t i = Lane(); i < input.width; i += kWarp) {
        sum = fmaf(Widen(x[i]), w.router[e * input.width + i], sum);
      }
      sum = WarpSum(sum);
      largest = fmaxf(largest, sum);
      if (Lane() == 0) logits[e] = sum;
    }
    __syncwarp();
    const auto chosen = [&](int e) {
      int likelier = 0;
      for (int other = 0; other < w.experts; ++other) {
        likelier += logits[other] > logits[e] || (logits[other] == logits[e] && other < e) ? 1 : 0;
      }
      return likelier < w.router_top_k;
    };
    const auto weight = [&](int e) { return chosen(e) ? expf(logits[e] - largest) : 0.0f; };
    float sum = 0.0f;
    for (int e = Lane(); e < w.experts; e += kWarp) sum += weight(e);
    sum = WarpSum(sum);
    float* h = work.h + tile.h_offset + r * tile.ranks + h_column;
    for (int e = Lane(); e < w.experts; e += kWarp) {
      const float factor = weight(e) / sum;
      for (int j = 0; j < w.rank; ++j) h[e * w.rank + j] *= factor;
      if (w.expert_rows != nullptr && chosen(e)) CountRow(w.expert_rows + e);
    }
    return false;
  });
}

// A block for each tile.
template <typename T>
__global__ void GatherRanksKernel(SegmentedWork work, const int32_t* ids, int64_t vocab_size) {
  const RowTile tile = work.tiles[blockIdx.x];
  ForEachPair(work, tile, [&](int32_t, int32_t, const SlotWeights& w, int64_t h_column) {
    const T* a = reinterpret_cast<const T*>(w.a);
    for (int64_t i = threadIdx.x; i < tile.rows * w.rank; i += blockDim.x) {
      const int64_t r = i / w.rank, j = i % w.rank, id = ids[tile.first_row + r];
      const bool known = id >= 0 && id < vocab_size;
      work.h[tile.h_offset + r * tile.ranks + h_column + j] = known ? Widen(a[j * vocab_size + id]) : NotANumber();
    }
    return false;
  });
}

// Block (tile, n): the n-th kColumnsPerBlock columns of the parts, a thread for each column and all rows. Loops over
// the rows of a tile have constant bounds, so that what they index stays in registers. y stays in registers over the
// terms and is rounded after each of them, as if each were a call of its own.
template <typename T>
__global__ void ExpandKernel(SegmentedWork work, Rows<T> y) {
  constexpr int kRanksAtOnce = 64;
  __shared__ SharedArray<float, kRowsPerTile * kRanksAtOnce> h;
  const RowTile tile = work.tiles[blockIdx.x];
  const ColumnBlock block = ColumnBlockOf(work, blockIdx.y);
  const SegmentedPart of = work.parts[block.part];
  const int64_t c = block.first + threadIdx.x;
  const bool ours = c < of.columns;
  bool touched = false;  // the same in all threads
  float values[kRowsPerTile] = {};

  ForEachPair(work, tile, [&](int32_t t, int32_t p, const SlotWeights& w, int64_t h_column) {
    if (p != block.part) return false;
    if (!touched && ours) {
      for (int r = 0; r < kRowsPerTile; ++r) {
        if (r < tile.rows) values[r] = Widen(y.row(tile.first_row + r)[of.first_column + c]);
      }
    }
    touched = true;
    const SlotTerm term = work.terms[t];
    const int64_t ranks = RanksOf(w);
    const T* b = reinterpret_cast<const T*>(w.b_t) + FirstRankOf(w, term) * of.columns + c;
    float sums[kRowsPerTile] = {};
    for (int64_t first = 0; first < ranks; first += kRanksAtOnce) {
      const int count = static_cast<int>(ranks - first < kRanksAtOnce ? ranks - first : kRanksAtOnce);
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < tile.rows * count; i += static_cast<int>(blockDim.x)) {
        const int r = i / count, j = i % count;
        h[r * kRanksAtOnce + j] = work.h[tile.h_offset + r * tile.ranks + h_column + first + j];
      }
      __syncthreads();
      if (!ours) continue;
      for (int j = 0; j < count; ++j) {
        const float of_b = Widen(b[(first + j) * of.columns]);
        for (int r = 0; r < kRowsPerTile; ++r) {
          if (r < tile.rows) sums[r] = fmaf(h[r * kRanksAtOnce + j], of_b, sums[r]);
        }
      }
    }
    if (!ours) return false;
    const ColumnOfTerm column = ColumnOf(w, term, of.columns, c, BiasAfter(work, tile, t, block.part));
    for (int r = 0; r < kRowsPerTile; ++r) values[r] = Updated<T>(values[r], sums[r], column);
    return false;
  });

  if (!touched || !ours) return;
  for (int r = 0; r < kRowsPerTile; ++r) {
    if (r < tile.rows) Put(values[r], y.row(tile.first_row + r) + of.first_column + c);
  }
}

}  // namespace lorad::cuda
