#pragma once

#include <algorithm>
#include <cstdint>

namespace lorad {

// The lengths at which a model's rope changes all of its angles (dynamic, longrope). A sequence is rotated by one
// variant throughout: when it grows into the next one, its keys are worth nothing and it is computed again.
struct RopeSwitch {
  int64_t every_tokens = 0;  // 0 = never
  int64_t last_variant = 0;

  // Of a sequence of so many tokens, computed or not; from 0.
  int64_t VariantOf(int64_t sequence_tokens) const {
    if (every_tokens == 0 || sequence_tokens <= 0) return 0;
    return std::min((sequence_tokens - 1) / every_tokens, last_variant);
  }
};

}  // namespace lorad
