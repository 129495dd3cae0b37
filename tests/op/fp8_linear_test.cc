// e4m3 against LibTorch's, code by code, and linears over weights in it against a double loop over LibTorch's numbers:
// rows that are denormal, of zeros, huge, or of one number that dwarfs the others.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include "model/e4m3.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/dequantize.h"
#include "model/ops/linear.h"
#include "tests/op/op_testing.h"
#include "tests/op/quantized_testing.h"

namespace lorad {
namespace {

// [256] f32
at::Tensor NumbersOfAllCodes() {
  return at::arange(256, at::kInt).to(at::kByte).view(at::kFloat8_e4m3fn).to(at::kFloat);
}
uint8_t CodeOfLibTorch(float v) {
  at::Tensor one = at::empty({1}, at::kFloat);
  Put(one, 0, v);
  return *one.to(at::kFloat8_e4m3fn).view(at::kByte).const_data_ptr<uint8_t>();
}

TEST(E4m3Test, EveryCodeIsLibTorchsNumberAndGoesBackToItself) {
  const at::Tensor numbers = NumbersOfAllCodes();
  for (int code = 0; code < 256; ++code) {
    const float expected = At(numbers, code), found = FromE4m3(static_cast<uint8_t>(code));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(found)) << code;
    } else {
      EXPECT_EQ(std::bit_cast<uint32_t>(found), std::bit_cast<uint32_t>(expected)) << code;
    }
    EXPECT_EQ(ToE4m3(found), code);
  }
}

TEST(E4m3Test, NumbersBetweenGoToTheCodeOfLibTorch) {
  const at::Tensor numbers = NumbersOfAllCodes();
  for (int code = 0; code < 126; ++code) {
    const float low = At(numbers, code), high = At(numbers, code + 1), middle = (low + high) / 2;
    for (const float v : {low, std::nextafter(low, high), std::nextafter(middle, low), middle,
                          std::nextafter(middle, high), std::nextafter(high, low)}) {
      EXPECT_EQ(ToE4m3(v), CodeOfLibTorch(v)) << v;
      EXPECT_EQ(ToE4m3(-v), CodeOfLibTorch(-v)) << -v;
    }
  }
  Numbers random(1);
  for (int i = 0; i < 2000; ++i) {
    const float v = std::ldexp(random.Uniform(-1.0f, 1.0f), static_cast<int>(random.Below(30)) - 21);
    EXPECT_EQ(ToE4m3(v), CodeOfLibTorch(v)) << v;
  }
}

TEST(E4m3Test, WhatIsLargerThanTheLargestBecomesIt) {
  for (const float v : {448.0f, 464.0f, 465.0f, 480.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(FromE4m3(ToE4m3(v)), 448.0f) << v;
    EXPECT_EQ(FromE4m3(ToE4m3(-v)), -448.0f) << v;
  }
  for (const float v : {1e-45f, 1e-40f, 1e-30f, 0x1p-11f}) EXPECT_EQ(FromE4m3(ToE4m3(v)), 0.0f) << v;
}

constexpr int64_t kIn = 200;
// The largest number of each row: of denormal scales, one rounded down by a third, so that numbers beyond 448 remain,
// and none.
constexpr float kSizes[] = {1.0f, 0.0f, 1e-39f, 9e-43f, 1e-44f, 1e30f, 3e38f, 1000.0f, 0.25f};
constexpr int64_t kOut = std::ssize(kSizes);

at::Tensor OddWeights(Numbers& numbers) {
  at::Tensor w = at::empty({kOut, kIn}, at::kFloat);
  for (int64_t r = 0; r < kOut; ++r) {
    for (int64_t k = 0; k < kIn; ++k) Put(w, r * kIn + k, kSizes[r] * numbers.Uniform(-1.0f, 1.0f));
    Put(w, r * kIn + 17, kSizes[r]);
  }
  for (int64_t k = 0; k < kIn; ++k) {
    if (k != 17) Put(w, 7 * kIn + k, numbers.Uniform(-0.03f, 0.03f));  // e4m3's denormals, beside 1000
    Put(w, 8 * kIn + k, -0.25f);
  }
  return w;
}

class Fp8LinearTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
};

TEST_P(Fp8LinearTest, RoundsToLibTorchsNumbersToTheBit) {
  Numbers numbers(2);
  const at::Tensor w = OddWeights(numbers), expected = Rounded(Quantization::kFp8, w);
  const LinearWeight quantized = LinearWeight::Quantize(w, Quantization::kFp8);
  at::Tensor made = at::empty({kOut, kIn}, at::TensorOptions().dtype(GetParam()));
  ASSERT_OK(Dequantize({quantized, made}));
  EXPECT_TRUE(made.equal(expected.to(GetParam())));
  EXPECT_TRUE(made.narrow(0, 1, 1).eq(0).all().item<bool>());
  EXPECT_GT(made.narrow(0, 7, 1).ne(0).sum().item<int64_t>(), kIn / 2);
  at::Tensor in_place = w.clone();
  RoundToQuantized(Quantization::kFp8, kOut, kIn, in_place.mutable_data_ptr<float>());
  EXPECT_TRUE(in_place.equal(expected));
}

TEST_P(Fp8LinearTest, EveryCodeIsMultipliedAsItIs) {
  const at::Tensor all = NumbersOfAllCodes();
  at::Tensor w = at::empty({254, 2}, at::kFloat);  // the largest beside it: the scale is one
  for (int64_t r = 0; r < 254; ++r) {
    Put(w, 2 * r, At(all, r < 127 ? r : r + 1));
    Put(w, 2 * r + 1, 448.0f);
  }
  const LinearWeight quantized = LinearWeight::Quantize(w, Quantization::kFp8);
  for (const int64_t rows : {1, 5, 16, 40}) {
    const at::Tensor x = Filled(GetParam(), {rows, 2}, [](int64_t i) { return i % 2 == 0 ? 2.0f : 0.0f; });
    at::Tensor y = at::empty({rows, 254}, x.options());
    ASSERT_OK(Linear({x, quantized, y}));
    for (int64_t i = 0; i < y.numel(); ++i) ASSERT_EQ(At(y, i), 2 * At(w, i % 254 * 2)) << i % 254;
  }
}

TEST_P(Fp8LinearTest, OddRowsEqualTheLoopOverLibTorchsNumbers) {
  Numbers numbers(3);
  const at::Tensor w = OddWeights(numbers);
  const Fp8Reference fp8 = Fp8Of(w);
  const LinearWeight quantized = LinearWeight::Quantize(w, Quantization::kFp8);
  constexpr double kLeastNormal = 1.2e-38;  // of f32 and bf16; processors may take less for zero
  for (const int64_t rows : {1, 7, 16}) {
    const at::Tensor x = Random(GetParam(), {rows, kIn}, numbers, 1.0f / kIn);
    const std::vector<double> products = Products(x, fp8.q);
    at::Tensor y = Filled(GetParam(), {rows, kOut}, [](int64_t) { return 7.0f; });
    ASSERT_OK(Linear({x, quantized, y}));
    for (int64_t i = 0; i < y.numel(); ++i) {
      const int64_t column = i % kOut;
      const double expected = products[static_cast<size_t>(i)] * static_cast<double>(At(fp8.scales, column));
      const double absolute = 1e-6 * static_cast<double>(kSizes[column]) + kLeastNormal;
      ASSERT_NEAR(At(y, i), expected, absolute + Epsilon(GetParam()) * std::abs(expected)) << column;
    }
  }
}

TEST(DequantizeTest, NamesTheBadArgument) {
  Numbers numbers(4);
  const LinearWeight weight = LinearWeight::Quantize(Random(at::kFloat, {8, 16}, numbers), Quantization::kFp8);
  at::Tensor narrow = at::empty({8, 15}, at::kFloat), wide = at::empty({8, 16}, at::kDouble);
  at::Tensor strided = at::empty({8, 32}, at::kFloat).narrow(1, 0, 16);
  EXPECT_INVALID(Dequantize({weight, narrow}), "w: [8, 15]");
  EXPECT_INVALID(Dequantize({weight, wide}), "w: [8, 16] Double");
  EXPECT_INVALID(Dequantize({weight, strided}), "strided");
  EXPECT_INVALID(Dequantize({LinearWeight::Prepare(narrow), narrow}), "weight");
}

INSTANTIATE_TEST_SUITE_P(Cpu, Fp8LinearTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
