#pragma once

#include <cstdint>
#include <functional>

// What an emulated device has for FlashInfer: loops that read our plan as its kernels do, which no emulator runs.
namespace lorad::emulator {

enum class TiledAttention { kRight, kWrong, kFails };
// From now on, for heads so large (0: all; the others are right); kRight at start.
void SetTiledAttention(TiledAttention how, int64_t head_dim = 0);
// What a call is of; strides in elements.
struct TiledAttentionCall {
  int64_t head_dim, heads, kv_heads, q_stride;
  int64_t page_bytes, head_bytes, key_offset_bytes;
  int64_t window_tokens, tile_rows, most_chunks;
  bool capped;
};
// From now on wrong where this says so, and right elsewhere; until SetTiledAttention.
void SetTiledAttentionWrongAt(std::function<bool(const TiledAttentionCall&)> wrong_at);
// How often it ran.
int TiledAttentionRuns();
// Into how many chunks the plan of the last run cut a context at most.
int TiledAttentionChunks();

}  // namespace lorad::emulator
