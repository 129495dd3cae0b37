#pragma once

#include <cstddef>
#include <cstdint>

#include "model/base/dtype.h"

namespace lorad {

inline constexpr int64_t kKvBlockTokens = 16;

// Inside a KV block: [layer][k, v][kv_head][kKvBlockTokens][head_dim]; the CPU's keys in panels (ops/cpu/key_panels.h).
struct KvLayout {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  DType dtype = DType::kF32;

  int64_t head_bytes() const { return kKvBlockTokens * head_dim * SizeBytes(dtype); }
  int64_t block_bytes() const { return num_layers * 2 * num_kv_heads * head_bytes(); }
  int64_t head_offset_bytes(int64_t layer, bool value, int64_t kv_head) const {
    return ((layer * 2 + (value ? 1 : 0)) * num_kv_heads + kv_head) * head_bytes();
  }
};

// The KV cache as kernels see it. A block number is the block's first page in the pool's arena.
struct KvView {
  std::byte* arena = nullptr;  // on the batch's device
  int64_t page_bytes = 0;
  KvLayout layout;
};

}  // namespace lorad
