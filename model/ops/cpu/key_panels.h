#pragma once

#include <cstdint>

#include "model/kv/kv_layout.h"

namespace lorad::cpu {

// How the CPU's operators keep the keys of one head in a KV block. Where a token's key is whole words of 4 bytes (one
// f32, two bf16), the block is a panel, [words][kKvBlockTokens] words: a word of all tokens is one vector, so that
// their scores need no sums across lanes. Otherwise [kKvBlockTokens][head_dim], as values lie always.
inline constexpr int64_t kKeyWordBytes = 4;
inline bool KeysInPanels(const KvLayout& layout) {
  return layout.head_dim * SizeBytes(layout.dtype) % kKeyWordBytes == 0;
}
inline int64_t KeyWords(const KvLayout& layout) {  // a last one may be half
  return (layout.head_dim * SizeBytes(layout.dtype) + kKeyWordBytes - 1) / kKeyWordBytes;
}

}  // namespace lorad::cpu
