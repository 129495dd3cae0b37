#pragma once

#include <cstdint>
#include <limits>

#include "absl/types/span.h"

namespace lorad {

inline constexpr int64_t kNeverActive = std::numeric_limits<int64_t>::max();

// The position from which an adapter is active: 0 without invocation tokens; else the first token of their last
// occurrence in the prompt, or kNeverActive. Source: peft tuners/lora/variants.py, calculate_alora_offsets; the prompt
// alone decides, as in PEFT's generate().
int64_t ActiveFrom(absl::Span<const int32_t> prompt, absl::Span<const int32_t> invocation_tokens);

}  // namespace lorad
