// Activations, with a gate and without.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "model/ops/activate.h"
#include "model/ops/gated_activation.h"
#include "model/ops/cpu/parallel.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

double Expected(Activation activation, double v) {
  switch (activation) {
    case Activation::kSilu:
      return v / (1 + std::exp(-v));
    case Activation::kGeluTanh:
      return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case Activation::kGelu:
      return 0.5 * v * std::erfc(-v / std::sqrt(2.0));
    case Activation::kRelu:
      return v > 0 ? v : 0;
  }
  return 0;
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class ActivationTest : public testing::TestWithParam<std::tuple<at::ScalarType, Activation>> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  Activation activation() const { return std::get<1>(GetParam()); }
};

TEST_P(ActivationTest, GatedEqualsTheLoop) {
  Numbers numbers(5);
  for (int64_t width : {1, 9, 64, 5000}) {
    for (int64_t rows : {1, 6}) {
      at::Tensor gate_up = Random(dtype(), {rows, 2 * width}, numbers, 8.0f);
      Put(gate_up, 0, -100.0f);  // the exponential of 100 is near the end of its range
      at::Tensor y = at::empty({rows, width}, gate_up.options());
      std::vector<double> expected;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < width; ++i) {
          const double act = Expected(activation(), At(gate_up, r * 2 * width + i));
          expected.push_back(RoundTo(dtype(), static_cast<float>(act)) * At(gate_up, r * 2 * width + width + i));
        }
      }
      ASSERT_OK(GatedActivation({gate_up, activation(), y}));
      // Two roundings, the first perhaps to the other neighbour.
      ExpectClose(y, expected, 4e-6, 3 * Epsilon(dtype()));
    }
  }
}

TEST_P(ActivationTest, UngatedEqualsTheLoopAndMayBeInPlace) {
  Numbers numbers(6);
  for (int64_t width : {1, 9, 64, 5000}) {
    for (int64_t rows : {1, 6}) {
      at::Tensor x = Random(dtype(), {rows, width}, numbers, 8.0f);
      Put(x, 0, -100.0f);
      std::vector<double> expected;
      for (int64_t i = 0; i < x.numel(); ++i) expected.push_back(Expected(activation(), At(x, i)));
      at::Tensor y = at::empty_like(x);
      ASSERT_OK(Activate({x, activation(), y}));
      ExpectClose(y, expected, 1e-6, Epsilon(dtype()));
      ASSERT_OK(Activate({x, activation(), x}));
      for (int64_t r = 0; r < rows; ++r) EXPECT_EQ(RowBytes(x, r), RowBytes(y, r));
    }
  }
}

TEST_P(ActivationTest, RowsOfAWiderTensor) {
  Numbers numbers(7);
  const at::Tensor wide = Random(dtype(), {4, 50}, numbers, 3.0f);
  const at::Tensor x = wide.narrow(1, 3, 30);
  at::Tensor y = at::empty({4, 30}, wide.options());
  ASSERT_OK(Activate({x, activation(), y}));
  std::vector<double> expected;
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t i = 0; i < 30; ++i) expected.push_back(Expected(activation(), At(wide, r * 50 + 3 + i)));
  }
  ExpectClose(y, expected, 1e-6, Epsilon(dtype()));
}

TEST_P(ActivationTest, KeepsNanAndTheEndsOfTheRange) {
  const std::vector<float> values = {kNan, 3e38f, -3e38f, kInfinity, 0.0f};
  at::Tensor gate_up = Filled(dtype(), {1, 10}, [&](int64_t i) { return i < 5 ? values[i] : 0.5f; });
  at::Tensor gated = at::empty({1, 5}, gate_up.options()), plain = at::empty({1, 5}, gate_up.options());
  ASSERT_OK(GatedActivation({gate_up, activation(), gated}));
  ASSERT_OK(Activate({gate_up.narrow(1, 0, 5), activation(), plain}));
  for (const at::Tensor& y : {gated, plain}) {
    EXPECT_TRUE(std::isnan(At(y, 0)));
    EXPECT_GT(At(y, 1), 1e38f);
    EXPECT_NEAR(At(y, 2), 0.0f, 0.4f);
    EXPECT_EQ(At(y, 3), kInfinity);
    EXPECT_EQ(At(y, 4), 0.0f);
  }
}

TEST_P(ActivationTest, RefusesWrongShapes) {
  at::Tensor x = at::zeros({2, 9}, at::TensorOptions().dtype(dtype()));
  at::Tensor y = at::empty({2, 5}, x.options());
  EXPECT_INVALID(GatedActivation({x, activation(), y}), "gate_up: [2, 9]");
  EXPECT_INVALID(Activate({x, activation(), y}), "y: [2, 5]");
  at::Tensor halves = x.to(at::kHalf);
  EXPECT_INVALID(Activate({halves, activation(), halves}), "x: [2, 9] Half");
}

std::string NameOf(const testing::TestParamInfo<std::tuple<at::ScalarType, Activation>>& info) {
  static constexpr const char* kNames[] = {"Silu", "GeluTanh", "Gelu", "Relu"};
  return std::string(kNames[static_cast<int>(std::get<1>(info.param))]) +
         (std::get<0>(info.param) == at::kFloat ? "F32" : "BF16");
}

INSTANTIATE_TEST_SUITE_P(Cpu, ActivationTest,
                         testing::Combine(testing::Values(at::kFloat, at::kBFloat16),
                                          testing::Values(Activation::kSilu, Activation::kGeluTanh, Activation::kGelu,
                                                          Activation::kRelu)),
                         NameOf);

}  // namespace
}  // namespace lorad
