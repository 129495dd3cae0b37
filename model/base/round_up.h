#pragma once

#include <cstdint>

namespace lorad {

// How many of `step` n >= 0 takes.
constexpr int64_t CeilDiv(int64_t n, int64_t step) { return (n + step - 1) / step; }

// The smallest multiple of `step` that is n or more, of n >= 0.
constexpr int64_t RoundUp(int64_t n, int64_t step) { return CeilDiv(n, step) * step; }

}  // namespace lorad
