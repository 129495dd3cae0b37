#include "model/ops/autograd/trained_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>

#include "model/ops/pieces.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

struct Gradients {
  at::Tensor y, x, weight;
};

template <typename Linear>
Gradients GradientsOf(const Linear& linear, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& g) {
  const at::Tensor of_x = x.detach().clone().set_requires_grad(true);
  const at::Tensor of_weight = weight.detach().clone().set_requires_grad(true);
  const at::Tensor y = linear(of_x, of_weight);
  (y * g).sum().backward();
  return {y.detach(), of_x.grad(), of_weight.grad()};
}

void ExpectNear(const at::Tensor& value, const at::Tensor& expected, double relative, const char* what) {
  const double largest = expected.abs().max().item<double>();
  const double off = (value.to(at::kDouble) - expected).abs().max().item<double>();
  EXPECT_LE(off, relative * largest) << what;
}

class TrainedLinearTest : public testing::TestWithParam<at::ScalarType> {};

TEST_P(TrainedLinearTest, IsLibTorchsInF64InPieces) {
  constexpr int64_t kRows = 128, kIn = 1024, kOut = 2600;
  const at::ScalarType dtype = GetParam();
  Numbers numbers(53);
  const at::Tensor x = Random(dtype, {kRows, kIn}, numbers), weight = Random(dtype, {kOut, kIn}, numbers);
  const at::Tensor g = Random(dtype, {kRows, kOut}, numbers);
  const auto linear = [](const at::Tensor& a, const at::Tensor& w) { return at::linear(a, w); };
  const Gradients expected = GradientsOf(linear, x.to(at::kDouble), weight.to(at::kDouble), g.to(at::kDouble));
  int pieces = 0;
  Gradients made;
  {
    const PieceListener listener([&](int64_t products) {
      EXPECT_LE(products, 2 * kPieceProducts);
      ++pieces;
    });
    made = GradientsOf(TrainedLinear, x, weight, g);
  }
  const double relative = dtype == at::kBFloat16 ? 4e-3 : 1e-6;
  ExpectNear(made.y, expected.y, relative, "values");
  ExpectNear(made.x, expected.x, relative, "gradient of x");
  ExpectNear(made.weight, expected.weight, relative, "gradient of the weight");
  EXPECT_EQ(pieces, 6);
}

TEST_P(TrainedLinearTest, WhatIsNotTrainedHasNoGradient) {
  Numbers numbers(54);
  const at::Tensor x = Random(GetParam(), {3, 8}, numbers);
  const at::Tensor weight = Random(GetParam(), {5, 8}, numbers).set_requires_grad(true);
  TrainedLinear(x, weight).sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(weight.grad().defined());
}

INSTANTIATE_TEST_SUITE_P(Types, TrainedLinearTest, testing::Values(at::kFloat, at::kBFloat16));

}  // namespace
}  // namespace lorad
