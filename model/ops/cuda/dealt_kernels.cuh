#pragma once

#include "model/ops/cuda/dealt_kernels.h"
#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/expert_kernels.h"
#include "model/ops/cuda/quantized_kernels.cuh"

namespace lorad::cuda {

// Dealing. The choices [rows, k] are one list, cut in chunks of a thread each; a bucket is an expert, the last one is
// none's. A pair's place is its bucket's start, then the bucket's choices in chunks before, then those before it in its
// own: nothing depends on the order in which threads come.
inline constexpr int kDealChunk = 256;
inline constexpr int kMostBuckets = static_cast<int>(kMaxExperts) + 1;
using Buckets = SharedArray<int32_t, kMostBuckets>;
using ChunkOfBuckets = SharedArray<int32_t, kDealChunk>;

__device__ inline int BucketOf(const DealtChoices& all, int64_t i) {
  const int32_t expert = all.chosen[i];
  return expert >= 0 && expert < all.experts ? expert : static_cast<int>(all.experts);
}

// counts[b] of the chunk, for all threads.
__device__ inline void CountChunk(const DealtChoices& all, int64_t chunk, Buckets& counts) {
  for (int b = static_cast<int>(threadIdx.x); b <= all.experts; b += kDealChunk) counts[b] = 0;
  __syncthreads();
  const int64_t i = chunk * kDealChunk + threadIdx.x;
  if (i < all.rows * all.k) counts.AtomicAdd(BucketOf(all, i), 1);
  __syncthreads();
}

// The sum of all lanes' values up to this one's.
__device__ inline int32_t WarpSumUpTo(int32_t v) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int32_t before = __shfl_sync(kAllLanes, v, Lane() >= distance ? Lane() - distance : 0);
    if (Lane() >= distance) v += before;
  }
  return v;
}

// counts become where each bucket starts; `warps` is scratch. Each thread has some neighbours.
__device__ inline void StartsOf(const DealtChoices& all, Buckets& counts,
                                SharedArray<int32_t, kDealChunk / kWarp>& warps) {
  const int buckets = static_cast<int>(all.experts) + 1;
  const int each = (buckets + kDealChunk - 1) / kDealChunk, first = static_cast<int>(threadIdx.x) * each;
  int32_t sum = 0;
  for (int b = first; b < first + each && b < buckets; ++b) sum += counts[b];
  int32_t start = WarpSumUpTo(sum);
  if (Lane() == kWarp - 1) warps[WarpOfBlock()] = start;
  start -= sum;
  __syncthreads();
  for (int w = 0; w < WarpOfBlock(); ++w) start += warps[w];
  for (int b = first; b < first + each && b < buckets; ++b) {
    const int32_t count = counts[b];
    counts[b] = start;
    start += count;
  }
  __syncthreads();
}

// Writes the chunk's pairs; start(b): the place of the chunk's first choice of bucket b.
template <typename Start>
__device__ void PlaceChunk(const DealtChoices& all, int64_t chunk, ChunkOfBuckets& buckets, const Start& start) {
  const int64_t i = chunk * kDealChunk + threadIdx.x;
  const bool there = i < all.rows * all.k;
  const int bucket = there ? BucketOf(all, i) : -1;
  buckets[static_cast<int>(threadIdx.x)] = bucket;
  __syncthreads();
  if (!there) return;
  int32_t pair = start(bucket);
  for (int before = 0; before < static_cast<int>(threadIdx.x); ++before) pair += buckets[before] == bucket ? 1 : 0;
  const int64_t row = i / all.k, first = row * all.k;
  all.pair_rows[pair] = static_cast<int32_t>(row);
  int64_t place = first;  // the row's pairs by ascending bucket, none last
  for (int64_t other = first; other < first + all.k; ++other) {
    const int of_other = BucketOf(all, other);
    place += of_other < bucket || (of_other == bucket && other < i) ? 1 : 0;
  }
  const bool chosen = bucket < all.experts;
  all.pairs[place] = chosen ? pair : -1;
  all.pair_weights[place] = chosen ? all.weights[i] : 0.0f;
}

// One block, for one chunk: a step of few rows.
__global__ void DealFewKernel(DealtChoices all) {
  __shared__ Buckets starts;
  __shared__ SharedArray<int32_t, kDealChunk / kWarp> warps;
  __shared__ ChunkOfBuckets buckets;
  CountChunk(all, 0, starts);
  StartsOf(all, starts, warps);
  for (int b = static_cast<int>(threadIdx.x); b <= all.experts; b += kDealChunk) all.starts[b] = starts[b];
  PlaceChunk(all, 0, buckets, [&](int bucket) { return static_cast<int32_t>(starts[bucket]); });
}

// A block for each chunk: counts [chunks, experts + 1].
__global__ void CountChoicesKernel(DealtChoices all, int32_t* counts) {
  __shared__ Buckets of_chunk;
  CountChunk(all, blockIdx.x, of_chunk);
  int32_t* to = counts + blockIdx.x * (all.experts + 1);
  for (int b = static_cast<int>(threadIdx.x); b <= all.experts; b += kDealChunk) to[b] = of_chunk[b];
}

// One block: counts become those of the chunks before.
__global__ void StartExpertsKernel(DealtChoices all, int64_t chunks, int32_t* counts) {
  __shared__ Buckets starts;
  __shared__ SharedArray<int32_t, kDealChunk / kWarp> warps;
  for (int b = static_cast<int>(threadIdx.x); b <= all.experts; b += kDealChunk) {
    int32_t before = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      int32_t* at = counts + chunk * (all.experts + 1) + b;
      const int32_t count = *at;
      *at = before;
      before += count;
    }
    starts[b] = before;
  }
  __syncthreads();
  StartsOf(all, starts, warps);
  for (int b = static_cast<int>(threadIdx.x); b <= all.experts; b += kDealChunk) all.starts[b] = starts[b];
}

// A block for each chunk.
__global__ void PlaceChoicesKernel(DealtChoices all, const int32_t* counts) {
  __shared__ ChunkOfBuckets buckets;
  const int32_t* before = counts + blockIdx.x * (all.experts + 1);
  PlaceChunk(all, blockIdx.x, buckets, [&](int bucket) { return all.starts[bucket] + before[bucket]; });
}

// Products.

// The n-th of the experts that have rows, or `experts` where there are not so many; the same in all lanes.
__device__ inline int64_t ExpertWithRows(const int32_t* starts, int64_t experts, int64_t n) {
  for (int64_t first = 0; first < experts; first += kWarp) {
    const int64_t e = first + Lane();
    unsigned with_rows = __ballot_sync(kAllLanes, e < experts && starts[e + 1] > starts[e]);
    for (; with_rows != 0; with_rows &= with_rows - 1) {
      if (n-- == 0) return first + __ffs(static_cast<int>(with_rows)) - 1;
    }
  }
  return experts;
}

template <typename T>
__device__ inline const T* InputOf(const DealtProducts<T>& all, int64_t pair) {
  return all.x.row(all.input_rows == nullptr ? pair : all.input_rows[pair]);
}

// Which part a block of columns is of; `block` becomes its number within the part.
template <typename T>
__device__ inline int PartOfBlock(const DealtProducts<T>& all, int64_t columns_of_block, int64_t* block) {
  int part = 0;
  for (;; ++part) {
    const int64_t blocks = (all.parts[part].columns + columns_of_block - 1) / columns_of_block;
    if (*block < blocks) return part;
    *block -= blocks;
  }
}

// Block (columns, n-th expert with rows); a warp a column, R rows at a time.
inline constexpr int kProductWarps = 8;
template <typename T, int R>
__global__ void DealtProductsKernel(DealtProducts<T> all) {
  const int64_t expert = ExpertWithRows(all.starts, all.experts, blockIdx.y);
  if (expert == all.experts) return;
  int64_t block = blockIdx.x;
  const DealtPart part = all.parts[PartOfBlock(all, kProductWarps, &block)];
  const int64_t column = block * kProductWarps + WarpOfBlock();
  if (column >= part.columns) return;
  const T* w = reinterpret_cast<const T*>(part.weights[expert]) + column * all.in;
  const bool aligned = IsAligned(w) && IsAligned(all.x.data) && IsAligned(all.x.data + all.x.stride);
  const int64_t end = all.starts[expert + 1];
  for (int64_t first = all.starts[expert]; first < end; first += R) {
    float sums[R] = {};
    for (int64_t i = Lane() * kEight; i < all.in; i += kWarp * kEight) {
      const bool wide = aligned && all.in - i >= kEight;
      float of_w[kEight], of_x[kEight];
      LoadUpTo<kEight>(wide, w + i, all.in - i, of_w);
      for (int r = 0; r < R; ++r) {
        if (first + r >= end) continue;
        LoadUpTo<kEight>(wide, InputOf(all, first + r) + i, all.in - i, of_x);
        for (int j = 0; j < kEight; ++j) sums[r] = fmaf(of_w[j], of_x[j], sums[r]);
      }
    }
    for (int r = 0; r < R; ++r) {
      if (first + r >= end) continue;
      const float sum = WarpSum(sums[r]);
      if (Lane() == 0) Put(sum, all.y.row(first + r) + part.first_column + column);
    }
  }
}

// Block (panel, n-th expert with rows); R rows at a time.
template <typename Quad, typename T, int R>
__global__ void DealtQuantizedKernel(DealtProducts<T> all) {
  __shared__ DotSums<R> sums;
  const int64_t expert = ExpertWithRows(all.starts, all.experts, blockIdx.y);
  if (expert == all.experts) return;
  int64_t panel = blockIdx.x;
  const DealtPart part = all.parts[PartOfBlock(all, kPanelColumns, &panel)];
  const QuantizedColumns weight = {Quad::kQuantization, all.in, part.columns,
                                   reinterpret_cast<const uint8_t*>(part.weights[expert])};
  const bool aligned = IsAligned(all.x.data) && IsAligned(all.x.data + all.x.stride);
  const int64_t end = all.starts[expert + 1];
  for (int64_t first = all.starts[expert]; first < end; first += R) {
    __syncthreads();  // the sums before are read
    DotPanel<Quad, T, R>(
        weight, panel, end - first, aligned, [&](int64_t r) { return InputOf(all, first + r); },
        [&](int64_t r) { return all.y.row(first + r) + part.first_column; }, sums);
  }
}

}  // namespace lorad::cuda
