#pragma once

#include <cmath>
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "model/base/dtype.h"

namespace lorad {

// Numbers that are the same on every machine, whatever LibTorch's generators do.
class Numbers final {
 public:
  explicit Numbers(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  float Uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(Next() >> 40) * (1.0f / (1 << 24));
  }
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }

 private:
  uint64_t state_;
};

inline float RoundToBf16(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if (std::isnan(v)) return v;
  bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000u;
  std::memcpy(&v, &bits, 4);
  return v;
}
inline float RoundTo(at::ScalarType dtype, float v) { return dtype == at::kFloat ? v : RoundToBf16(v); }
inline DType OurDType(at::ScalarType dtype) { return dtype == at::kFloat ? DType::kF32 : DType::kBF16; }

// Element i of a contiguous tensor's storage, as the test's loops read it.
inline float At(const at::Tensor& t, int64_t i) {
  if (t.scalar_type() == at::kFloat) return static_cast<const float*>(t.const_data_ptr())[i];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(t.const_data_ptr())[i]) << 16;
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}
inline void Put(at::Tensor& t, int64_t i, float v) {
  if (t.scalar_type() == at::kFloat) {
    static_cast<float*>(t.mutable_data_ptr())[i] = v;
    return;
  }
  if (!std::isnan(v)) v = RoundToBf16(v);
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  static_cast<uint16_t*>(t.mutable_data_ptr())[i] = static_cast<uint16_t>(bits >> 16);
}

inline at::Tensor Filled(at::ScalarType dtype, std::vector<int64_t> shape, const std::function<float(int64_t)>& value) {
  at::Tensor t = at::empty(shape, at::TensorOptions().dtype(dtype));
  for (int64_t i = 0; i < t.numel(); ++i) Put(t, i, value(i));
  return t;
}
inline at::Tensor Random(at::ScalarType dtype, std::vector<int64_t> shape, Numbers& numbers, float size = 1.0f) {
  return Filled(dtype, std::move(shape), [&](int64_t) { return numbers.Uniform(-size, size); });
}
inline at::Tensor Ints(const std::vector<int32_t>& values, std::vector<int64_t> shape = {}) {
  if (shape.empty()) shape = {static_cast<int64_t>(values.size())};
  at::Tensor t = at::empty(shape, at::TensorOptions().dtype(at::kInt));
  std::copy(values.begin(), values.end(), static_cast<int32_t*>(t.mutable_data_ptr()));
  return t;
}

// The bytes of row r of a contiguous 2-d tensor.
inline std::string RowBytes(const at::Tensor& t, int64_t r) {
  const size_t bytes = static_cast<size_t>(t.size(1) * t.element_size());
  return std::string(static_cast<const char*>(t.const_data_ptr()) + static_cast<size_t>(r) * bytes, bytes);
}

// |actual - expected| <= absolute + relative * |expected| everywhere; NaN only where expected.
inline void ExpectClose(const at::Tensor& actual, const std::vector<double>& expected, double absolute,
                        double relative) {
  ASSERT_EQ(actual.numel(), static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = At(actual, static_cast<int64_t>(i)), e = expected[i];
    if (std::isnan(a) && std::isnan(e)) continue;
    ASSERT_LE(std::abs(a - e), absolute + relative * std::abs(e)) << "element " << i << ": " << a << " for " << e;
  }
}

inline std::string DTypeName(const testing::TestParamInfo<at::ScalarType>& info) {
  return info.param == at::kFloat ? "F32" : "BF16";
}

// One rounding of the result.
inline double Epsilon(at::ScalarType dtype) { return dtype == at::kFloat ? 2e-6 : 1.0 / 256; }

#define EXPECT_OK(expression)                    \
  do {                                           \
    const absl::Status status_of = (expression); \
    EXPECT_TRUE(status_of.ok()) << status_of;    \
  } while (false)
#define ASSERT_OK(expression)                    \
  do {                                           \
    const absl::Status status_of = (expression); \
    ASSERT_TRUE(status_of.ok()) << status_of;    \
  } while (false)
#define EXPECT_INVALID(expression, words)                                     \
  do {                                                                        \
    const absl::Status status_of = (expression);                              \
    EXPECT_EQ(status_of.code(), absl::StatusCode::kInvalidArgument);          \
    EXPECT_THAT(std::string(status_of.message()), testing::HasSubstr(words)); \
  } while (false)

}  // namespace lorad
