#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "model/base/dtype.h"

namespace lorad {

// Between the floating types of adapter files and of the pool; ties go to even. Branch-free, so that loops vectorise.
inline float F32FromBf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

inline uint16_t Bf16FromF32(float value) {  // finite values only
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

// Finite values only. The exponent is rebased by a multiplication, which also normalises subnormal numbers.
inline float F32FromF16(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7FFFu) << 13;
  const float value = std::bit_cast<float>(magnitude) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | static_cast<uint32_t>(bits & 0x8000u) << 16);
}

uint16_t F16FromF32(float value);  // finite values only; rounds to infinity past 65519

// `count` elements of `from` (f32, bf16, f16) as f32.
void ToF32(DType from, const std::byte* source, int64_t count, float* destination);

// `count` f32 values as `to` (f32, bf16, f16).
void FromF32(const float* source, int64_t count, DType to, std::byte* destination);

// Index of the first element that is NaN, infinite, or not finite once rounded to `pool_dtype`; -1 if all are finite.
int64_t FirstNotFinite(DType dtype, const std::byte* source, int64_t count, DType pool_dtype);

}  // namespace lorad
