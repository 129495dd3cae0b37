#pragma once

#include "model/kv/kv_layout.h"
#include "model/ops/cuda/attention_kernels.h"
#include "model/ops/cuda/device_code.cuh"

namespace lorad::cuda {

// Where a token's keys or values of one head lie.
template <typename T>
__device__ inline T* TokenOf(const KvLayer& kv, int64_t block, bool value, int64_t head, int64_t token) {
  std::byte* at =
      kv.arena + block * kv.page_bytes + (value ? kv.value_offset_bytes : kv.key_offset_bytes) + head * kv.head_bytes;
  return reinterpret_cast<T*>(at) + token * kv.head_dim;
}

template <typename T>
__device__ inline bool InTable(const RopeRows<T>& rows, int32_t position) {
  return position >= 0 && position < rows.max_positions;
}

// Norms, if there is a weight, and rotates one head; a warp's work. `to` may be `from`: a lane writes the columns that
// it alone reads.
template <typename T, typename W>
__device__ void RotateHead(const T* from, const RopeRows<T>& rows, int32_t position, const W* weight, T* to) {
  const int64_t width = rows.kv.head_dim, half = rows.half;
  const bool known = InTable(rows, position);
  float factor = 1.0f;
  if (weight != nullptr) {
    float squares = 0.0f;
    for (int64_t i = Lane(); i < width; i += kWarp) squares += Widen(from[i]) * Widen(from[i]);
    factor = 1.0f / sqrtf(WarpSum(squares) / static_cast<float>(width) + rows.norm_eps);
  }
  const auto normed = [&](int64_t i) {
    const float v = Widen(from[i]);
    return weight == nullptr ? v : Rounded<T>(Widen(weight[i]) * Rounded<W>(v * factor));
  };
  // Sums of squares are read from all columns before any lane writes one.
  __syncwarp();
  for (int64_t i = Lane(); i < half; i += kWarp) {
    const float a = normed(i), b = normed(i + half);
    const float c = known ? Widen(rows.cos[position * half + i]) : NotANumber();
    const float s = known ? Widen(rows.sin[position * half + i]) : NotANumber();
    Put(a * c - b * s, to + i);
    Put(b * c + a * s, to + i + half);
  }
  for (int64_t i = 2 * half + Lane(); i < width; i += kWarp) Put(known ? normed(i) : NotANumber(), to + i);
}

// Block (row, n): a warp for each of the row's heads, the n-th kHeadsOfBlock of them.
inline constexpr int kHeadsOfBlock = 4;
template <typename T, typename W>
__global__ void RopeKvWriteKernel(RopeRows<T> rows, const W* q_norm, const W* k_norm) {
  const int64_t r = blockIdx.x, width = rows.kv.head_dim, kv_heads = rows.kv.kv_heads;
  const int32_t position = rows.positions[r], slot = rows.kv_slots[r];
  const int64_t h = int64_t{blockIdx.y} * kHeadsOfBlock + WarpOfBlock();
  if (h >= rows.heads + 2 * kv_heads) return;
  T* head = rows.qkv.row(r) + h * width;
  if (h < rows.heads) {
    RotateHead(head, rows, position, q_norm, head);
    return;
  }
  if (slot < 0 || !InTable(rows, position)) return;
  const bool value = h >= rows.heads + kv_heads;
  const int64_t kv_head = h - rows.heads - (value ? kv_heads : 0);
  T* to = TokenOf<T>(rows.kv, slot / kKvBlockTokens, value, kv_head, slot % kKvBlockTokens);
  if (value) {
    for (int64_t i = Lane(); i < width; i += kWarp) to[i] = head[i];
  } else {
    RotateHead(head, rows, position, k_norm, to);
  }
}

// The last s with starts[s] <= i, of those that are not empty: starts ascend, and starts[n] > i.
__device__ inline int64_t PlaceIn(const int32_t* starts, int64_t n, int64_t i) {
  int64_t low = 0, high = n;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (starts[middle] <= i) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// The sequence that has row r, or -1.
template <typename T>
__device__ inline int64_t SequenceOf(const AttentionRows<T>& rows, int64_t r) {
  if (rows.sequences == 0) return -1;
  const int64_t s = PlaceIn(rows.cu_rows, rows.sequences, r);
  return rows.cu_rows[s] <= r && r < rows.cu_rows[s + 1] ? s : -1;
}

template <typename T>
__device__ inline const int32_t* TableOf(const AttentionRows<T>& rows, int64_t sequence) {
  return rows.block_table + sequence * rows.blocks_per_sequence;
}

// Whether there is a block for each of these positions; the same in all lanes.
template <typename T>
__device__ inline bool HasBlocks(const AttentionRows<T>& rows, int64_t sequence, int64_t oldest, int64_t position) {
  const int64_t last = position / kKvBlockTokens;
  if (sequence < 0 || position < 0 || last >= rows.blocks_per_sequence) return false;
  const int32_t* table = TableOf(rows, sequence);
  bool missing = false;
  for (int64_t b = oldest / kKvBlockTokens + Lane(); b <= last; b += kWarp) missing = missing || table[b] < 0;
  return __ballot_sync(kAllLanes, missing) == 0;
}

// Attention of row r and head h by one block of kAttentionWarps warps, each with every kAttentionWarps-th run of 32
// positions and a running softmax of its own; at the end they are put together in the warps' order. A lane scores one
// position, then has some columns of all 32. What a row gets depends on nothing but its own positions.
inline constexpr int kAttentionWarps = 4;
inline constexpr int kColumnsPerLane = static_cast<int>(kMaxHeadDim) / kWarp;

template <typename T>
__device__ void AttendRow(const AttentionRows<T>& rows, int64_t r, int64_t h) {
  __shared__ SharedArray<float, static_cast<int>(kMaxHeadDim)> q;
  __shared__ SharedArray<float, kAttentionWarps * kWarp> weights;
  __shared__ SharedArray<float, kAttentionWarps> largest_of, sum_of;
  __shared__ SharedArray<float, kAttentionWarps* static_cast<int>(kMaxHeadDim)> parts;
  const int64_t width = rows.kv.head_dim;
  const int64_t kv_head = h / (rows.heads / rows.kv.kv_heads);
  const int warp = WarpOfBlock(), lane = Lane();
  const int64_t sequence = SequenceOf(rows, r), position = rows.positions[r];
  const int64_t oldest =
      rows.window_tokens > 0 && position >= rows.window_tokens ? position - rows.window_tokens + 1 : 0;
  // The same in all threads: none waits for those that leave.
  if (!HasBlocks(rows, sequence, oldest, position)) {
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) Put(NotANumber(), rows.y.row(r) + h * width + i);
    return;
  }
  const int32_t* table = TableOf(rows, sequence);

  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    q[static_cast<int>(i)] = Widen(rows.q.row(r)[h * width + i]);
  }
  __syncthreads();

  float largest = -INFINITY, sum = 0.0f, columns[kColumnsPerLane] = {};
  for (int64_t first = oldest / kWarp * kWarp + warp * kWarp; first <= position; first += kAttentionWarps * kWarp) {
    const int64_t j = first + lane;
    const bool seen = j >= oldest && j <= position;
    float score = -INFINITY;
    if (seen) {
      const T* key = TokenOf<const T>(rows.kv, table[j / kKvBlockTokens], false, kv_head, j % kKvBlockTokens);
      float product = 0.0f;
      for (int i = 0; i < width; ++i) product += q[i] * Widen(key[i]);
      score = product * rows.scale;
      if (rows.softcap > 0.0f) score = rows.softcap * tanhf(score / rows.softcap);
    }
    const float new_largest = fmaxf(largest, WarpMax(score));
    const float shrink = new_largest == -INFINITY ? 1.0f : expf(largest - new_largest);
    const float weight = seen ? expf(score - new_largest) : 0.0f;
    sum = sum * shrink + WarpSum(weight);
    largest = new_largest;
    weights[warp * kWarp + lane] = weight;
    __syncwarp();
    for (int c = 0; c < kColumnsPerLane; ++c) columns[c] *= shrink;
    const int64_t begin = first > oldest ? first : oldest,
                  end = first + kWarp <= position ? first + kWarp : position + 1;
    for (int64_t k = begin; k < end; ++k) {
      const T* value = TokenOf<const T>(rows.kv, table[k / kKvBlockTokens], true, kv_head, k % kKvBlockTokens);
      const float w = weights[warp * kWarp + static_cast<int>(k - first)];
      for (int c = 0; c < kColumnsPerLane; ++c) {
        if (c * kWarp + lane < width) columns[c] += w * Widen(value[c * kWarp + lane]);
      }
    }
    __syncwarp();
  }

  if (lane == 0) {
    largest_of[warp] = largest;
    sum_of[warp] = sum;
  }
  for (int c = 0; c < kColumnsPerLane; ++c) {
    if (c * kWarp + lane < width) parts[warp * static_cast<int>(kMaxHeadDim) + c * kWarp + lane] = columns[c];
  }
  __syncthreads();
  float of_all = -INFINITY;
  for (int w = 0; w < kAttentionWarps; ++w) of_all = fmaxf(of_all, largest_of[w]);
  if (of_all == -INFINITY) of_all = 0.0f;  // all scores are NaN, which the sums keep
  float total = 0.0f;
  for (int w = 0; w < kAttentionWarps; ++w) total += sum_of[w] * expf(largest_of[w] - of_all);
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    float value = 0.0f;
    for (int w = 0; w < kAttentionWarps; ++w) {
      value += parts[w * static_cast<int>(kMaxHeadDim) + static_cast<int>(i)] * expf(largest_of[w] - of_all);
    }
    Put(value / total, rows.y.row(r) + h * width + i);
  }
}

template <typename T>
__global__ void PagedAttentionKernel(AttentionRows<T> rows) {
  AttendRow(rows, blockIdx.x, blockIdx.y);
}

}  // namespace lorad::cuda
