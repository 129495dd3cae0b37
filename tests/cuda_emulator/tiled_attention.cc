#include "tests/cuda_emulator/tiled_attention.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "model/kv/kv_layout.h"
#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/fast_attention.h"
#include "model/ops/cuda/launch.h"

namespace lorad::cuda {
namespace {

using emulator::TiledAttention;
using emulator::TiledAttentionCall;

TiledAttention how_chosen = TiledAttention::kRight;
int64_t chosen_head_dim = 0;
std::function<bool(const TiledAttentionCall&)> chosen_wrong_at;
int runs = 0, chunks = 0;

TiledAttention HowOf(int64_t head_dim) {
  return chosen_head_dim == 0 || chosen_head_dim == head_dim ? how_chosen : TiledAttention::kRight;
}

float WrongBy(const AttentionRows<Bf16>& rows, const AttentionTiles& tiles) {
  const KvLayer& kv = rows.kv;
  if (!chosen_wrong_at) return HowOf(kv.head_dim) == TiledAttention::kWrong ? 0.5f : 0.0f;
  const bool wrong = chosen_wrong_at({.head_dim = kv.head_dim,
                                      .heads = rows.heads,
                                      .kv_heads = kv.kv_heads,
                                      .q_stride = rows.q.stride,
                                      .page_bytes = kv.page_bytes,
                                      .head_bytes = kv.head_bytes,
                                      .key_offset_bytes = kv.key_offset_bytes,
                                      .window_tokens = rows.window_tokens,
                                      .tile_rows = tiles.tile_rows,
                                      .most_chunks = tiles.most_chunks,
                                      .capped = rows.softcap > 0.0f});
  return wrong ? 64.0f : 0.0f;  // the answers of a model of any weights change by it, too
}

constexpr int32_t kFewTileRows = 16, kManyTileRows = 64;

// The running softmax of one row and head over one chunk.
struct Part {
  std::vector<float> values;  // [head_dim], divided by the sum
  float log2_sum;
};

const Bf16* TokenAt(const AttentionRows<Bf16>& rows, int32_t block, bool value, int64_t head, int64_t token) {
  const KvLayer& kv = rows.kv;
  const std::byte* at =
      kv.arena + block * kv.page_bytes + (value ? kv.value_offset_bytes : kv.key_offset_bytes) + head * kv.head_bytes;
  return reinterpret_cast<const Bf16*>(at) + token * kv.head_dim;
}

// Row `row` of the sequence at `position` over tokens [begin, end), of which it sees some.
Part PartOf(const AttentionRows<Bf16>& rows, const int32_t* table, int64_t row, int64_t head, int64_t position,
            int64_t begin, int64_t end) {
  const int64_t width = rows.kv.head_dim, kv_head = head / (rows.heads / rows.kv.kv_heads);
  const int64_t oldest = rows.window_tokens > 0 ? std::max<int64_t>(0, position - rows.window_tokens + 1) : 0;
  const int64_t first = std::max(begin, oldest), last = std::min(end, position + 1);
  std::vector<float> scores;
  float largest = -std::numeric_limits<float>::infinity(), sum = 0.0f;
  for (int64_t j = first; j < last; ++j) {
    const Bf16* const key = TokenAt(rows, table[j / kKvBlockTokens], false, kv_head, j % kKvBlockTokens);
    float score = 0.0f;
    for (int64_t i = 0; i < width; ++i) score += Widen(rows.q.row(row)[head * width + i]) * Widen(key[i]);
    score *= rows.scale;
    if (rows.softcap > 0.0f) score = rows.softcap * std::tanh(score / rows.softcap);
    scores.push_back(score);
    largest = std::max(largest, score);
  }
  Part part = {std::vector<float>(static_cast<size_t>(width)), -std::numeric_limits<float>::infinity()};
  for (float& score : scores) sum += score = std::exp(score - largest);
  for (int64_t j = first; j < last; ++j) {
    const Bf16* const value = TokenAt(rows, table[j / kKvBlockTokens], true, kv_head, j % kKvBlockTokens);
    for (int64_t i = 0; i < width; ++i) part.values[i] += scores[j - first] / sum * Widen(value[i]);
  }
  if (!scores.empty()) part.log2_sum = largest * std::log2(std::exp(1.0f)) + std::log2(sum);
  return part;
}

// As BatchPrefillWithPagedKVCacheDevice reads its parameters: bounds of tiles and chunks, and where results go.
void RunItem(const AttentionRows<Bf16>& rows, const AttentionTiles& tiles, int64_t item) {
  const int64_t s = tiles.sequences[item], tile = tiles.tiles[item], chunk = tiles.chunks[item];
  const int64_t group = rows.heads / rows.kv.kv_heads, begin = rows.cu_rows[s], count = rows.cu_rows[s + 1] - begin;
  const int64_t context =
      (tiles.table_starts[s + 1] - tiles.table_starts[s] - 1) * kKvBlockTokens + tiles.last_tokens[s];
  const int64_t left = rows.window_tokens > 0 ? rows.window_tokens - 1 : context;
  const int64_t start = std::max<int64_t>(0, context + tile * tiles.tile_rows / group - (count + left));
  const bool parted = tiles.most_chunks > 1;
  const int64_t chunk_tokens = parted ? *tiles.chunk_tokens_there : context - start;
  const int64_t chunk_begin = std::min(start + chunk * chunk_tokens, context);
  const int64_t chunk_end = std::min(start + (chunk + 1) * chunk_tokens, context);
  const int64_t chunks = (std::min(context, left + tiles.tile_rows) + chunk_tokens - 1) / chunk_tokens;
  const int32_t* const table = rows.block_table + tiles.table_starts[s];
  const int64_t end = std::min((tile + 1) * int64_t{tiles.tile_rows}, count * group);
  const float wrong_by = WrongBy(rows, tiles);
  for (int64_t packed = tile * tiles.tile_rows; packed < end; ++packed) {
    for (int64_t kv_head = 0; kv_head < rows.kv.kv_heads; ++kv_head) {
      const int64_t row = packed / group, head = kv_head * group + packed % group;
      Part part = PartOf(rows, table, begin + row, head, context - count + row, chunk_begin, chunk_end);
      for (float& value : part.values) value += wrong_by;
      const int64_t at = tiles.first_parts[s] + (parted ? row * chunks + chunk : row);
      if (parted) tiles.part_weights[at * rows.heads + head] = part.log2_sum;
      Bf16* const to = parted ? static_cast<Bf16*>(tiles.parts) : rows.y.data;
      for (int64_t i = 0; i < rows.kv.head_dim; ++i) {
        Put(part.values[i], to + (at * rows.heads + head) * rows.kv.head_dim + i);
      }
    }
  }
}

// A row's parts by their weights; of none: zeros.
void PutTogether(const AttentionRows<Bf16>& rows, const AttentionTiles& tiles, int64_t r) {
  const auto* const parts = static_cast<const Bf16*>(tiles.parts);
  for (int64_t head = 0; head < rows.heads; ++head) {
    float largest = -std::numeric_limits<float>::infinity(), sum = 0.0f;
    for (int64_t p = tiles.row_parts[r]; p < tiles.row_parts[r + 1]; ++p) {
      largest = std::max(largest, tiles.part_weights[p * rows.heads + head]);
    }
    std::vector<float> values(static_cast<size_t>(rows.kv.head_dim));
    for (int64_t p = tiles.row_parts[r]; p < tiles.row_parts[r + 1]; ++p) {
      const float weight = std::exp2(tiles.part_weights[p * rows.heads + head] - largest);
      sum += weight;
      for (int64_t i = 0; i < rows.kv.head_dim; ++i) {
        values[i] += weight * Widen(parts[(p * rows.heads + head) * rows.kv.head_dim + i]);
      }
    }
    for (int64_t i = 0; i < rows.kv.head_dim; ++i) {
      Put(sum > 0.0f ? values[i] / sum : 0.0f, rows.y.row(r) + head * rows.kv.head_dim + i);
    }
  }
}

// One thread does it all.
__global__ void TiledAttentionKernel(AttentionRows<Bf16> rows, AttentionTiles tiles) {
  if (threadIdx.x != 0) return;
  for (int64_t item = 0; item < tiles.items; ++item) {
    if (tiles.valid[item]) RunItem(rows, tiles, item);
  }
  if (tiles.most_chunks == 1) return;
  for (int64_t r = 0; r < static_cast<int64_t>(*tiles.rows_there); ++r) PutTogether(rows, tiles, r);
}

cudaError_t Run(const AttentionRows<Bf16>& rows, const AttentionTiles& tiles, cudaStream_t stream) {
  ++runs;
  chunks = tiles.most_chunks;
  if (HowOf(rows.kv.head_dim) == TiledAttention::kFails) return emulator::Answer(cudaErrorInvalidValue);
  return Launch(&TiledAttentionKernel, Grid(1), kWarp, stream, rows, tiles);
}

}  // namespace

const FastAttention& LinkedFastAttention() {
  static const FastAttention tiled = {
      .name = "the stand-in",
      .head_dims = {64, 128, 256},
      .caps = [](int64_t head_dim) { return head_dim == 256; },
      .tile_rows = [](int64_t, int64_t packed_rows) { return packed_rows <= 16 ? kFewTileRows : kManyTileRows; },
      .blocks_at_once = [] { return int64_t{264}; },
      .run = &Run};
  return tiled;
}

}  // namespace lorad::cuda

namespace lorad::emulator {

void SetTiledAttention(TiledAttention how, int64_t head_dim) {
  cuda::how_chosen = how;
  cuda::chosen_head_dim = head_dim;
  cuda::chosen_wrong_at = nullptr;
}
void SetTiledAttentionWrongAt(std::function<bool(const TiledAttentionCall&)> wrong_at) {
  SetTiledAttention(TiledAttention::kRight);
  cuda::chosen_wrong_at = std::move(wrong_at);
}
int TiledAttentionRuns() { return cuda::runs; }
int TiledAttentionChunks() { return cuda::chunks; }

}  // namespace lorad::emulator
