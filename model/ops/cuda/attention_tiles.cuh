#pragma once

#include "model/ops/cuda/attention_kernels.cuh"
#include "model/ops/cuda/attention_tiles.h"

namespace lorad::cuda {

// Whether the sequence's rows are consecutive and have all blocks that they see; the same in all lanes.
template <typename T>
__device__ inline bool IsPlain(const AttentionRows<T>& rows, int64_t sequence) {
  const int64_t begin = rows.cu_rows[sequence], count = rows.cu_rows[sequence + 1] - begin;
  const int64_t first = rows.positions[begin], last = first + count - 1;
  bool apart = false;
  for (int64_t i = Lane(); i < count; i += kWarp) apart = apart || rows.positions[begin + i] != first + i;
  if (__ballot_sync(kAllLanes, apart) != 0 || first < 0) return false;
  const int64_t oldest = rows.window_tokens > 0 && first >= rows.window_tokens ? first - rows.window_tokens + 1 : 0;
  return HasBlocks(rows, sequence, oldest, last);
}

// Of one value a lane: the sum of those up to its own.
__device__ inline int32_t SumUpTo(int32_t value) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int32_t before = __shfl_sync(kAllLanes, value, (Lane() + kWarp - distance) % kWarp);
    if (Lane() >= distance) value += before;
  }
  return value;
}

// counts[1..n] become their running sums behind counts[0] = 0. One warp.
__device__ inline void SumCounts(int32_t* counts, int64_t n) {
  if (Lane() == 0) counts[0] = 0;
  int32_t carry = 0;
  for (int64_t first = 1; first <= n; first += kWarp) {
    const int64_t i = first + Lane();
    const int32_t sum = carry + SumUpTo(i <= n ? counts[i] : 0);
    if (i <= n) counts[i] = sum;
    carry = __shfl_sync(kAllLanes, sum, kWarp - 1);
  }
}

// One block.
template <typename T>
__global__ void AttentionTilesKernel(AttentionRows<T> rows, AttentionTiles tiles) {
  const int64_t count = rows.sequences, group = rows.heads / rows.kv.kv_heads;
  for (int64_t s = WarpOfBlock(); s < count; s += WarpsOfBlock()) {
    const int64_t begin = rows.cu_rows[s], own_rows = rows.cu_rows[s + 1] - begin;
    const bool plain = own_rows > 0 && IsPlain(rows, s);
    if (Lane() != 0) continue;
    const int64_t context = plain ? rows.positions[begin] + own_rows : 1;
    const int64_t seen = rows.window_tokens > 0 ? rows.window_tokens - 1 + tiles.tile_rows : context;
    const int64_t chunks = CeilDiv(seen < context ? seen : context, tiles.chunk_tokens);
    tiles.table_starts[s] = static_cast<int32_t>(s * rows.blocks_per_sequence);
    tiles.last_tokens[s] = static_cast<int32_t>(context - (rows.blocks_per_sequence - 1) * kKvBlockTokens);
    tiles.item_starts[s + 1] = plain ? static_cast<int32_t>(CeilDiv(own_rows * group, tiles.tile_rows) * chunks) : 0;
    tiles.first_parts[s + 1] = plain ? static_cast<int32_t>(own_rows * chunks) : 0;
    tiles.refused_starts[s + 1] = own_rows > 0 && !plain ? static_cast<int32_t>(own_rows) : 0;
  }
  __syncthreads();
  if (WarpOfBlock() == 0) {
    SumCounts(tiles.item_starts, count);
    SumCounts(tiles.first_parts, count);
    SumCounts(tiles.refused_starts, count);
    if (Lane() == 0) {
      tiles.table_starts[count] = static_cast<int32_t>(count * rows.blocks_per_sequence);
      *tiles.chunk_tokens_there = tiles.chunk_tokens;
      *tiles.rows_there = static_cast<uint32_t>(rows.cu_rows[count]);
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < tiles.items; i += blockDim.x) {
    const bool valid = i < tiles.item_starts[count];
    tiles.valid[i] = valid;
    if (!valid) continue;
    const int64_t s = PlaceIn(tiles.item_starts, count, i), own_rows = rows.cu_rows[s + 1] - rows.cu_rows[s];
    const int64_t within = i - tiles.item_starts[s];
    const int64_t chunks = (tiles.first_parts[s + 1] - tiles.first_parts[s]) / own_rows;
    tiles.sequences[i] = static_cast<int32_t>(s);
    tiles.tiles[i] = static_cast<int32_t>(within / chunks);
    tiles.chunks[i] = static_cast<int32_t>(within % chunks);
  }
  const int64_t there = rows.cu_rows[count], refused = tiles.refused_starts[count];
  if (threadIdx.x == 0)
    *tiles.refused_count = static_cast<int32_t>(refused + (there < rows.rows ? rows.rows - there : 0));
  for (int64_t r = threadIdx.x; r <= rows.rows; r += blockDim.x) {
    const auto row = static_cast<int32_t>(r);
    if (r >= there) {
      tiles.row_parts[r] = tiles.first_parts[count];
      if (r < rows.rows) tiles.refused_rows[refused + r - there] = row;
      continue;
    }
    const int64_t s = PlaceIn(rows.cu_rows, count, r), within = r - rows.cu_rows[s];
    const int64_t own_rows = rows.cu_rows[s + 1] - rows.cu_rows[s];
    const int64_t chunks = (tiles.first_parts[s + 1] - tiles.first_parts[s]) / own_rows;
    tiles.row_parts[r] = static_cast<int32_t>(tiles.first_parts[s] + within * chunks);
    const int64_t listed = tiles.refused_starts[s];
    if (tiles.refused_starts[s + 1] > listed) tiles.refused_rows[listed + within] = row;
  }
  if (tiles.most_chunks > 1) return;
  // Straight to y: a refused sequence's rows keep their place.
  __syncthreads();
  for (int64_t s = threadIdx.x; s <= count; s += blockDim.x) tiles.first_parts[s] = rows.cu_rows[s];
}

template <typename T>
__global__ void RefusedAttentionKernel(AttentionRows<T> rows, AttentionTiles tiles) {
  const int64_t items = *tiles.refused_count * rows.heads;
  for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
    AttendRow(rows, tiles.refused_rows[i / rows.heads], i % rows.heads);
    __syncthreads();
  }
}

}  // namespace lorad::cuda
