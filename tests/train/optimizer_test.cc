#include "adapters/train/optimizer.h"

#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>

#include <gtest/gtest.h>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>

#include "model/ops/pieces.h"

namespace lorad {
namespace {

// A leaf of several pieces; LibTorch's own AdamW tells what becomes of it.
TEST(OptimizerTest, ALargeLeafIsUpdatedInPiecesAsByTorch) {
  constexpr int64_t kElements = (int64_t{1} << 22) + 7;
  constexpr double kLearningRate = 1e-2, kDecay = 0.1, kMaxNorm = 1.0;
  at::manual_seed(1);
  const at::Tensor start = at::randn({kElements}, at::kFloat);
  const at::Tensor leaf = start.clone().set_requires_grad(true);
  const at::Tensor torchs = start.clone().set_requires_grad(true);
  OptimizerConfig config;
  config.learning_rate = kLearningRate;
  config.weight_decay = kDecay;
  config.max_grad_norm = kMaxNorm;
  Optimizer optimizer(config, {NamedLeaf{"leaf", leaf}});
  torch::optim::AdamW of_torch({torchs}, torch::optim::AdamWOptions(kLearningRate)
                                             .weight_decay(kDecay)
                                             .betas({config.beta1, config.beta2})
                                             .eps(config.epsilon));
  for (int step = 0; step < 3; ++step) {
    const at::Tensor gradient = at::randn({kElements}, at::kFloat);
    leaf.mutable_grad() = gradient.clone();
    torchs.mutable_grad() = gradient.clone();
    torch::nn::utils::clip_grad_norm_({torchs}, kMaxNorm);
    of_torch.step();
    int pieces = 0;
    const PieceListener listener([&](int64_t products) {
      EXPECT_LE(products, kPieceProducts);
      ++pieces;
    });
    const absl::StatusOr<double> norm = optimizer.Step(kLearningRate);
    ASSERT_TRUE(norm.ok()) << norm.status();
    EXPECT_NEAR(*norm, gradient.to(at::kDouble).norm().item<double>(), 1e-6 * *norm);
    EXPECT_EQ(pieces, 4);  // one that reads, three that update
  }
  EXPECT_LE((leaf.detach() - torchs.detach()).abs().max().item<double>(), 1e-6);
}

}  // namespace
}  // namespace lorad
