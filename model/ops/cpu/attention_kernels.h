#pragma once

#include <cstddef>
#include <cstdint>

namespace lorad::cpu {

// Attention of consecutive rows of one sequence, for the q heads that share one KV head, on one thread.
//
// Row i, head g of the group: q + i * q_stride + g * head_dim, at position first_position + i. Keys of the KV head lie
// at arena + blocks[b] * page_bytes + k_offset_bytes, [16, head_dim]; values likewise. Blocks are visited in ascending
// order with a running softmax, whatever the number of rows: a row's result is the same bits in any tile.
struct AttendArgs {
  const std::byte* arena;
  int64_t page_bytes;
  int64_t k_offset_bytes;
  int64_t v_offset_bytes;
  const int32_t* blocks;  // block numbers of the sequence
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
