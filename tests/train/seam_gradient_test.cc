#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "adapters/train/leaves.h"
#include "adapters/train/trainable_seam.h"
#include "tests/support/status_matchers.h"
#include "tests/train/finite_differences.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

constexpr int64_t kRows = 5;

TrainConfig ConfigOf(bool dora, const std::vector<std::string>& targets) {
  TrainConfig config = SmallConfig(/*rank=*/3, /*steps=*/1);
  config.adapter.use_dora = dora;
  config.adapter.all_linear = false;
  config.adapter.target_names = targets;
  return config;
}

// Leaves of llama3 in f64, no pair of which is zero.
AdapterLeaves LeavesInF64(const TrainBase& base, const TrainConfig& config) {
  auto leaves = AdapterLeaves::Create(config, base.model->base_shape(), base.tables);
  EXPECT_THAT(leaves, IsOk());
  const at::NoGradGuard frozen;
  for (const NamedLeaf& leaf : leaves->Named()) {
    at::Tensor tensor = leaf.tensor;
    if (leaf.is_b || leaf.of_embedding_pair) tensor.copy_(0.3 * at::randn(tensor.sizes()));
    tensor.set_data(tensor.to(at::kDouble));
  }
  return *std::move(leaves);
}

class SeamGradientTest : public testing::TestWithParam<bool> {};

TEST_P(SeamGradientTest, OfALinearIsItsFiniteDifferences) {
  at::manual_seed(1);
  const TrainBase base = LoadTrainBase("llama3");
  const AdapterLeaves leaves = LeavesInF64(base, ConfigOf(/*dora=*/GetParam(), {"q_proj", "v_proj"}));
  std::vector<MicroBatchPart> parts(1);
  parts[0].leaves = &leaves;
  parts[0].dropout = GetParam() ? 0.0 : 0.3;  // the masks are functions of the seed
  TrainableSeam seam(&parts);
  const LeafModule& q = *leaves.Find(Site::kQProj, 1);
  const LeafModule& v = *leaves.Find(Site::kVProj, 1);
  const int64_t of_q = q.b.size(0), of_v = v.b.size(0);
  // Rows 1 to 3 are the adapter's, and a part of the group has no leaves.
  const SiteGroup group = {
      .layer = 1, .parts = {{Site::kQProj, 0, of_q}, {Site::kKProj, of_q, of_v}, {Site::kVProj, of_q + of_v, of_v}}};
  const RowSegments rows = {.starts = {0, 1, 4, 5}, .term_starts = {0, 0, 1, 1}, .terms = {{.slot = 0, .scale = 1.0f}}};
  const auto options = at::TensorOptions().dtype(at::kDouble);
  at::Tensor x = at::randn({kRows, q.a.size(1)}, options), y = at::randn({kRows, of_q + 2 * of_v}, options);
  x.set_requires_grad(true);
  y.set_requires_grad(true);
  const at::Tensor weights = at::randn({kRows, of_q + 2 * of_v}, options);
  const auto loss = [&] {
    const at::Tensor out = seam.FinishLinear(group, x, y, at::Tensor(), rows);
    return (weights * out * out).sum();
  };
  ExpectGradient("x", x, loss);
  ExpectGradient("y", y, loss);
  for (const LeafModule* module : {&q, &v}) {
    ExpectGradient(module->path + ".A", module->a, loss);
    ExpectGradient(module->path + ".B", module->b, loss);
    if (GetParam()) ExpectGradient(module->path + ".magnitude", module->magnitude, loss);
  }
}

// Rows 1 to 3 of 5 are the adapter's.
const RowSegments kSomeRows = {
    .starts = {0, 1, 4, 5}, .term_starts = {0, 0, 1, 1}, .terms = {{.slot = 0, .scale = 1.0f}}};

// The loss of the embedding of five tokens, three of them the adapter's own rows.
std::function<at::Tensor()> EmbeddingLoss(TrainableSeam* seam, const at::Tensor& raw) {
  const at::Tensor ids = at::tensor(std::vector<int32_t>{8, 16, 9, 16, 80}, at::TensorOptions().dtype(at::kInt));
  const at::Tensor weights = at::randn(raw.sizes(), raw.options());
  return [seam, raw, ids, weights] {
    const at::Tensor out = seam->FinishEmbedding(ids, raw, kSomeRows);
    return (weights * out * out).sum();
  };
}

TEST(ReplacementGradientTest, OfATrainedHeadAndTokensAreTheirFiniteDifferences) {
  at::manual_seed(2);
  const TrainBase base = LoadTrainBase("llama3");
  TrainConfig config = ConfigOf(/*dora=*/false, {"q_proj"});
  config.adapter.modules_to_save = {"lm_head"};
  config.adapter.trainable_tokens = {{"", {17, 16, 9}}};
  const AdapterLeaves leaves = LeavesInF64(base, config);
  std::vector<MicroBatchPart> parts(1);
  parts[0].leaves = &leaves;
  TrainableSeam seam(&parts, at::kDouble);
  const LeafModule& head = *leaves.Find(Site::kLmHead, -1);
  const LeafModule& embedding = *leaves.Find(Site::kEmbedTokens, -1);
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const int64_t vocabulary = head.weight.size(0), hidden = head.weight.size(1);
  at::Tensor x = at::randn({kRows, hidden}, options);
  x.set_requires_grad(true);
  const at::Tensor y = at::randn({kRows, vocabulary}, options), weights = at::randn({kRows, vocabulary}, options);
  const auto of_head = [&] {
    const at::Tensor out =
        seam.FinishLinear({.parts = {{Site::kLmHead, 0, vocabulary}}}, x, y, at::Tensor(), kSomeRows);
    return (weights * out * out).sum();
  };
  ExpectGradient("head x", x, of_head);
  ExpectGradient("head weight", head.weight, of_head);
  at::Tensor raw = at::randn({kRows, hidden}, options);
  raw.set_requires_grad(true);
  const auto of_embedding = EmbeddingLoss(&seam, raw);
  ExpectGradient("raw", raw, of_embedding);
  ExpectGradient("token rows", embedding.token_rows, of_embedding);
}

TEST(ReplacementGradientTest, OfDoraOnAnEmbeddingAreTheirFiniteDifferences) {
  at::manual_seed(3);
  const TrainBase base = LoadTrainBase("llama3");
  const AdapterLeaves leaves = LeavesInF64(base, ConfigOf(/*dora=*/true, {"embed_tokens"}));
  std::vector<MicroBatchPart> parts(1);
  parts[0].leaves = &leaves;
  TrainableSeam seam(&parts, at::kDouble);
  const LeafModule& embedding = *leaves.Find(Site::kEmbedTokens, -1);
  at::Tensor raw = at::randn({kRows, embedding.b.size(0)}, at::TensorOptions().dtype(at::kDouble));
  raw.set_requires_grad(true);
  const auto loss = EmbeddingLoss(&seam, raw);
  ExpectGradient("raw", raw, loss);
  ExpectGradient("A", embedding.a, loss);
  ExpectGradient("B", embedding.b, loss);
  ExpectGradient("magnitude", embedding.magnitude, loss);
}

INSTANTIATE_TEST_SUITE_P(Kinds, SeamGradientTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "Dora" : "LoraWithDropout"; });

}  // namespace
}  // namespace lorad
