#pragma once

#include <atomic>

#include "adapters/ops/cuda/segmented_expand.cuh"
#include "adapters/ops/cuda/segmented_pairs.cuh"
#include "adapters/ops/cuda/segmented_shrink.cuh"

namespace lorad::cuda {

// ExpertLoad's counters, in memory that the host reads while kernels run.
__device__ inline void CountRow(std::atomic<int64_t>* counter) {
  static_assert(sizeof(std::atomic<int64_t>) == sizeof(unsigned long long));
  atomicAdd_system(reinterpret_cast<unsigned long long*>(counter), 1ull);
}

// Block (tile, row of the tile), a warp a logit. Of equal logits the lower expert is the likelier.
inline constexpr int kWeighWarps = 8;
template <typename T>
__global__ void WeighExpertsKernel(SegmentedWork work, ShrinkInput<T> input, float* all_logits, int64_t max_experts) {
  const RowTile tile = work.tiles[blockIdx.x];
  const int r = static_cast<int>(blockIdx.y);
  if (r >= tile.rows) return;
  const T* x = InputRow(input, tile.first_row + r);
  float* logits = all_logits + (int64_t{blockIdx.x} * kRowsPerTile + r) * max_experts;
  ForEachPair(work, tile, [&](int32_t, int32_t, const SlotWeights& w, int64_t h_column) {
    if (w.router == nullptr || w.rank == 0) return false;
    __syncthreads();  // the slot before has been weighed
    for (int e = WarpOfBlock(); e < w.experts; e += kWeighWarps) {
      float sum = 0.0f;
      for (int64_t i = Lane(); i < input.width; i += kWarp) {
        sum = fmaf(Widen(x[i]), w.router[e * input.width + i], sum);
      }
      sum = WarpSum(sum);
      if (Lane() == 0) logits[e] = sum;
    }
    __syncthreads();
    float largest = -INFINITY;
    for (int e = 0; e < w.experts; ++e) largest = fmaxf(largest, logits[e]);
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
    for (int e = static_cast<int>(threadIdx.x); e < w.experts; e += kWeighWarps * kWarp) {
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

}  // namespace lorad::cuda
