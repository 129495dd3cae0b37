#include "tests/train/finite_differences.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

namespace lorad {
namespace {

constexpr double kStep = 1e-5;
constexpr double kTolerance = 1e-7;  // of central differences of what is about cubic, in f64

}  // namespace

void ExpectGradient(const std::string& name, at::Tensor leaf, const std::function<double()>& value,
                    const std::function<void()>& backward) {
  leaf.mutable_grad() = at::Tensor();
  backward();
  ASSERT_TRUE(leaf.grad().defined()) << name;
  const at::Tensor gradient = leaf.grad().contiguous();
  const at::NoGradGuard frozen;
  auto* const values = leaf.mutable_data_ptr<double>();
  for (int64_t i = 0; i < leaf.numel(); i += 1 + leaf.numel() / 40) {
    const double at_leaf = values[i];
    values[i] = at_leaf + kStep;
    const double above = value();
    values[i] = at_leaf - kStep;
    const double below = value();
    values[i] = at_leaf;
    const double difference = (above - below) / (2 * kStep);
    EXPECT_NEAR(gradient.const_data_ptr<double>()[i], difference, kTolerance * std::max(1.0, std::abs(difference)))
        << name << "[" << i << "]";
  }
}

void ExpectGradient(const std::string& name, at::Tensor leaf, const std::function<at::Tensor()>& loss) {
  ExpectGradient(
      name, std::move(leaf), [&] { return loss().item<double>(); }, [&] { torch::autograd::backward({loss()}, {}); });
}

}  // namespace lorad
