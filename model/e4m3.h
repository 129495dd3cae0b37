#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace lorad {

// Floats of 8 bits: a sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinity, and one NaN of each sign. The
// largest is 448, the smallest 2^-9. Source   OCP OFP8 "E4M3", LibTorch's Float8_e4m3fn.
inline constexpr float kMostE4m3 = 448.0f;
inline constexpr uint8_t kE4m3Nan = 0x7F;

// Their exponents and mantissas, moved to the place of a float's, are a float of 2^-120 of the value: below 2^-6, where
// both are denormal, too.
constexpr float FromE4m3(uint8_t code) {
  const uint32_t sign = (code & 0x80u) << 24, magnitude = code & 0x7Fu;
  if (magnitude == kE4m3Nan) return std::bit_cast<float>(sign | 0x7FC00000u);
  return std::bit_cast<float>(sign | magnitude << 20) * 0x1p120f;
}

// The nearest, half to even; what is larger than the largest becomes that.
inline uint8_t ToE4m3(float v) {
  constexpr float kLeastNormal = 0x1p-6f;
  constexpr float kWhole = 0x1p14f;  // from here on floats are multiples of 2^-9
  constexpr uint32_t kExponents = 120;
  const float size = std::fabs(v);
  const uint32_t bits = std::bit_cast<uint32_t>(size);
  uint32_t code = kE4m3Nan;
  if (size >= kMostE4m3) {
    code = kE4m3Nan - 1;
  } else if (size < kLeastNormal) {
    code = std::bit_cast<uint32_t>(size + kWhole) - std::bit_cast<uint32_t>(kWhole);
  } else if (!std::isnan(size)) {
    code = ((bits + 0x7FFFFu + (bits >> 20 & 1u)) >> 20) - (kExponents << 3);
  }
  return static_cast<uint8_t>(code | (std::signbit(v) ? 0x80u : 0u));
}

}  // namespace lorad
