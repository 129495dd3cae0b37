#pragma once

#include <cstddef>
#include <cstdint>

namespace lorad::cpu {

// Attention of consecutive rows of one sequence, for some KV heads and the q heads that share them, on one thread.
//
// Row i, q head g of KV head h: q + i * q_stride + (h * group + g) * head_dim, at position first_position + i; y
// likewise. Keys of KV head h lie at arena + blocks[b] * page_bytes + k_offset_bytes + h * head_bytes as KvLayout has
// them, values likewise. Blocks are visited in ascending order with a running softmax, in chunks that begin at
// multiples of 8, whatever the number of rows: a row's result is the same bits in any tile.
struct AttendArgs {
  const std::byte* arena;
  int64_t page_bytes;
  int64_t k_offset_bytes;
  int64_t v_offset_bytes;
  int64_t head_bytes;
  bool keys_in_panels;    // key_panels.h
  const int32_t* blocks;  // block numbers of the sequence
  int64_t kv_heads;
  int64_t head_dim;
  int64_t first_position;
  int64_t rows;
  int64_t group;   // q heads per KV head
  int64_t window;  // 0 = none
  float scale;
  float softcap;     // 0 = none
  int64_t q_stride;  // elements
  int64_t y_stride;
};
void Attend(const AttendArgs& args, const float* q, float* y);
void Attend(const AttendArgs& args, const uint16_t* q, uint16_t* y);

}  // namespace lorad::cpu
