#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace lorad::cpu {

// Single numbers of the operators' two types as f32 and back, for loops that are no kernels. Ties go to even; NaN stays
// NaN.
inline float Widen(float v) { return v; }
inline float Widen(uint16_t bf16) { return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16); }

inline void Put(float v, float* y) { *y = v; }
inline void Put(float v, uint16_t* y) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  *y = std::isnan(v) ? uint16_t{0x7FC0} : static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

}  // namespace lorad::cpu
