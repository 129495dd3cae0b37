#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "adapters/train/leaves.h"
#include "adapters/train/trainable_seam.h"
#include "model/layers/routed_rows.h"
#include "tests/support/status_matchers.h"
#include "tests/train/finite_differences.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

constexpr int64_t kRows = 7;
constexpr int kLayer = 1;
const at::TensorOptions kF64 = at::TensorOptions().dtype(at::kDouble);

// One part whose adapter of llama3 has f64 leaves, B not zero; rows 1 to 5 are its own.
class RouterGradientTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    at::manual_seed(1);
    base_ = LoadTrainBase("llama3");
    Make(SmallRouting(GetParam()));
  }
  void Make(RoutedTraining routed) {
    TrainConfig config = SmallConfig(/*rank=*/3, /*steps=*/1);
    config.routed = std::move(routed);
    auto leaves = AdapterLeaves::Create(config, base_.model->base_shape(), base_.tables);
    ASSERT_THAT(leaves, IsOk());
    leaves_ = std::make_unique<AdapterLeaves>(*std::move(leaves));
    const at::NoGradGuard frozen;
    for (const NamedLeaf& leaf : leaves_->Named()) {
      at::Tensor tensor = leaf.tensor;
      if (leaf.is_b) tensor.copy_(0.3 * at::randn(tensor.sizes()));
      tensor.set_data(tensor.to(at::kDouble));
    }
    parts_.assign(1, {});
    parts_[0].leaves = leaves_.get();
    parts_[0].router_loss_scale = 0.7;
    parts_[0].dropout_seed = 11;
    for (const size_t tokens : {2, 3}) parts_[0].sequences.push_back({std::vector<int32_t>(tokens, 5), {}});
    seam_ = std::make_unique<TrainableSeam>(&parts_);
  }
  bool IsMixLora() const { return leaves_->routed()->moe.kind == MoeKind::kMixLora; }
  const LeafModule& Module(Site site, int32_t expert = -1) const { return *leaves_->Find(site, kLayer, expert); }
  const LeafModule& Router() const { return Module(IsMixLora() ? Site::kFfn : Site::kUpProj); }
  at::Tensor RandomX() const { return at::randn({kRows, Router().router.size(1)}, kF64).set_requires_grad(true); }

  // Of up, where experts have pairs: [kRows, out].
  at::Tensor Up(const at::Tensor& x) {
    const int64_t out = Module(Site::kUpProj, 0).b.size(0);
    const SiteGroup group = {.layer = kLayer, .parts = {{Site::kUpProj, 0, out}}};
    if (!IsMixLora()) return seam_->FinishLinear(group, x, at::zeros({kRows, out}, kF64), at::Tensor(), rows_);
    const RowRouting routing = seam_->RouteFfn(kLayer, x, rows_);
    const RoutedRows& routed = *routing.routed;
    const at::Tensor& input = routing.noisy_input.defined() ? routing.noisy_input : x;
    const at::Tensor pairs =
        seam_->FinishLinear(group, input, at::zeros({routed.pairs.rows(), out}, kF64), at::Tensor(), routed.pairs);
    const at::Tensor y = CombinePairs(pairs, routed, /*add=*/true, at::zeros({kRows, out}, kF64));
    return routed.passed.defined() ? y + routed.passed.sum(at::IntArrayRef{1}, /*keepdim=*/true) : y;
  }

  void ExpectGradientsOfUp() {
    const at::Tensor x = RandomX();
    const at::Tensor weights = at::randn({kRows, Module(Site::kUpProj, 0).b.size(0)}, kF64);
    const auto loss = [&] {
      const at::Tensor y = Up(x);
      return (weights * y * y).sum();
    };
    ExpectGradient("x", x, loss);
    ExpectGradient("router", Router().router, loss);
    int32_t chosen = 0;
    for (int32_t expert = 0; expert < leaves_->routed()->moe.experts; ++expert) {
      const LeafModule& module = Module(Site::kUpProj, expert);
      at::Tensor(module.a).mutable_grad() = at::Tensor();
      torch::autograd::backward({loss()}, {});
      if (!module.a.grad().defined()) continue;  // no row chose it
      ExpectGradient(module.saved_path + ".A", module.a, loss);
      ExpectGradient(module.saved_path + ".B", module.b, loss);
      if (module.magnitude.defined()) ExpectGradient(module.saved_path + ".magnitude", module.magnitude, loss);
      ++chosen;
    }
    const RoutingRule& rule = leaves_->routed()->moe.routing;  // of which a row chooses so many, each another
    EXPECT_GE(chosen, rule.choice == RoutingRule::Choice::kTopP ? 1 : rule.top_k);
  }

  // The routers' loss of all that went through the seam.
  double RouterLossOf(const at::Tensor& x) {
    const at::NoGradGuard frozen;
    (void)Up(x);
    return seam_->router_loss().Values()[0];
  }

  TrainBase base_;
  std::unique_ptr<AdapterLeaves> leaves_;
  std::vector<MicroBatchPart> parts_;
  std::unique_ptr<TrainableSeam> seam_;
  const RowSegments rows_ = {
      .starts = {0, 1, 6, 7}, .term_starts = {0, 0, 1, 1}, .terms = {{.slot = 0, .scale = 1.0f}}};
};

TEST_P(RouterGradientTest, OfTheRoutedRowsIsItsFiniteDifferences) { ExpectGradientsOfUp(); }

TEST_P(RouterGradientTest, WithNoiseAndACapacityToo) {
  RoutedTraining routed = SmallRouting(GetParam());
  routed.jitter_noise = 0.2;
  routed.expert_dropout = 0.3;
  if (routed.is_switch()) routed.expert_capacity = 1;
  Make(routed);
  const at::Tensor x = RandomX();
  const at::Tensor calm = Up(x).detach();
  parts_[0].has_noise = parts_[0].has_capacity = true;
  parts_[0].expert_dropout = routed.expert_dropout;
  EXPECT_FALSE(calm.equal(Up(x)));
  EXPECT_TRUE(Up(x).equal(Up(x)));  // drawn from the part's seed
  ExpectGradientsOfUp();
}

class UnchosenExpertTest : public RouterGradientTest {};

TEST_P(UnchosenExpertTest, IsNotComputed) {
  {
    const at::NoGradGuard frozen;
    at::Tensor router = Router().router;
    router.zero_().select(0, 1).fill_(0.1);
    router.select(0, 3).fill_(0.05);
  }
  const at::Tensor x = (RandomX().detach().abs() + 0.1).set_requires_grad(true);
  torch::autograd::backward({Up(x).square().sum()}, {});
  for (const int32_t expert : {0, 1, 2, 3}) {
    EXPECT_EQ(Module(Site::kUpProj, expert).b.grad().defined(), expert % 2 == 1) << expert;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, UnchosenExpertTest, testing::Values("mixlora", "mola"));

std::string NameOf(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Kinds, RouterGradientTest,
                         testing::Values("mixlora", "mixlora-dynamic", "mixlora-switch", "loramoe", "mola"), NameOf);

class ExpertDoraTest : public RouterGradientTest {};

TEST_P(ExpertDoraTest, HasTheGradientsOfItsFiniteDifferences) {
  RoutedTraining routed = SmallRouting(GetParam());
  routed.moe.expert.dora = true;
  Make(routed);
  ASSERT_TRUE(Module(Site::kUpProj, 0).magnitude.defined());
  ExpectGradientsOfUp();
}

INSTANTIATE_TEST_SUITE_P(Kinds, ExpertDoraTest, testing::Values("mixlora", "mixlora-dynamic", "mixlora-switch"),
                         NameOf);

class RouterLossTest : public RouterGradientTest {};

TEST_P(RouterLossTest, HasTheGradientOfItsFiniteDifferences) {
  const at::Tensor x = RandomX();
  const auto value = [&] { return parts_[0].router_loss_scale * RouterLossOf(x); };
  const auto backward = [&] {
    (void)Up(x);
    (void)seam_->router_loss().Values();
    std::vector<at::Tensor> roots, gradients;
    seam_->router_loss().TakeRoots(kLayer, &roots, &gradients);
    torch::autograd::backward(roots, gradients);
  };
  ExpectGradient("x", x, value, backward);
  ExpectGradient("router", Router().router, value, backward);
}

INSTANTIATE_TEST_SUITE_P(Kinds, RouterLossTest, testing::Values("mixlora", "mixlora-dynamic", "mixlora-switch", "mola"),
                         NameOf);

class RouterLossIdentityTest : public RouterGradientTest {};

TEST_P(RouterLossIdentityTest, IsKWhenRowsAreDealtEvenlyAndTheNumberOfExpertsWhenOneGetsAll) {
  RoutedTraining routed = SmallRouting("mixlora");
  routed.aux_loss_coef = 1.0;
  for (const int32_t k : {1, 2, 4}) {
    routed.moe.routing.top_k = k;
    Make(routed);
    const at::NoGradGuard frozen;
    at::Tensor(Router().router).zero_();
    EXPECT_NEAR(RouterLossOf(RandomX()), k, 1e-12);
  }
  routed.moe.routing.top_k = 1;
  Make(routed);
  const at::NoGradGuard frozen;
  at::Tensor router = Router().router;
  router.zero_().select(0, 2).fill_(1e3);
  EXPECT_NEAR(RouterLossOf(RandomX().abs() + 0.1), routed.moe.experts, 1e-9);
}

INSTANTIATE_TEST_SUITE_P(TopK, RouterLossIdentityTest, testing::Values("mixlora"));

}  // namespace
}  // namespace lorad
