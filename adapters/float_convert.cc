#include "adapters/float_convert.h"

#include <algorithm>
#include <cstring>

#include "model/base/check.h"

namespace lorad {
namespace {

template <typename T>
T Load(const std::byte* source, int64_t index) {
  T value;
  std::memcpy(&value, source + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T>
void Store(std::byte* destination, int64_t index, T value) {
  std::memcpy(destination + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

// Without its sign bit, an element is not finite in the pool's type exactly when it is at least this.
uint32_t SmallestNotFinite(DType dtype, DType pool_dtype) {
  switch (dtype) {
    case DType::kF32:
      if (pool_dtype == DType::kBF16) return 0x7F7F8000u;  // halfway from bf16's largest to infinity
      if (pool_dtype == DType::kF16) return 0x477FF000u;   // 65520
      return 0x7F800000u;
    case DType::kBF16:
      return pool_dtype == DType::kF16 ? 0x4780u : 0x7F80u;  // 65536: there is nothing between it and 65280
    case DType::kF16:
      return 0x7C00u;
    default:
      LORAD_CHECK(false);
  }
}

template <typename T>
int64_t FirstAtLeast(const std::byte* source, int64_t count, T limit) {
  constexpr T kMagnitude = static_cast<T>(~T{0}) >> 1;
  constexpr int64_t kBlock = 4096;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    T largest = 0;
    for (int64_t i = begin; i < end; ++i) {
      largest = std::max(largest, static_cast<T>(Load<T>(source, i) & kMagnitude));
    }
    if (largest < limit) continue;
    for (int64_t i = begin; i < end; ++i) {
      if (static_cast<T>(Load<T>(source, i) & kMagnitude) >= limit) return i;
    }
  }
  return -1;
}

}  // namespace

uint16_t F16FromF32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const float magnitude = std::bit_cast<float>(bits & 0x7FFFFFFFu);
  if (magnitude < 0x1p-14f) {
    // Subnormal in f16: adding 0.5 lets the float unit round at 2^-24.
    const uint32_t rounded = std::bit_cast<uint32_t>(magnitude + 0.5f);
    return static_cast<uint16_t>(sign | (rounded - std::bit_cast<uint32_t>(0.5f)));
  }
  const uint32_t m = bits & 0x7FFFFFFFu;
  const uint32_t rounded = m + 0x0FFFu + ((m >> 13) & 1u);
  if (rounded >= 0x47800000u) return sign | 0x7C00u;
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

void ToF32(DType from, const std::byte* source, int64_t count, float* destination) {
  switch (from) {
    case DType::kF32:
      std::memcpy(destination, source, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) destination[i] = F32FromBf16(Load<uint16_t>(source, i));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) destination[i] = F32FromF16(Load<uint16_t>(source, i));
      return;
    default:
      LORAD_CHECK(false);
  }
}

void FromF32(const float* source, int64_t count, DType to, std::byte* destination) {
  switch (to) {
    case DType::kF32:
      std::memcpy(destination, source, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) Store(destination, i, Bf16FromF32(source[i]));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) Store(destination, i, F16FromF32(source[i]));
      return;
    default:
      LORAD_CHECK(false);
  }
}

int64_t FirstNotFinite(DType dtype, const std::byte* source, int64_t count, DType pool_dtype) {
  const uint32_t limit = SmallestNotFinite(dtype, pool_dtype);
  if (dtype == DType::kF32) return FirstAtLeast<uint32_t>(source, count, limit);
  return FirstAtLeast<uint16_t>(source, count, static_cast<uint16_t>(limit));
}

}  // namespace lorad
