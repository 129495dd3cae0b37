#include "model/layers/norm.h"

#include <utility>

#include <ATen/ops/add.h>
#include <ATen/ops/empty_like.h>

#include "model/base/guarded.h"
#include "model/ops/layer_norm.h"
#include "model/ops/rms_norm.h"

namespace lorad {

at::Tensor LoadNormWeight(const ModelConfig& config, WeightName name, int layer, WeightLoader& weights) {
  at::Tensor weight = weights.LoadIfAny(name, layer);
  if (config.norm != NormKind::kRmsPlusOne || !weight.defined()) return weight;
  return at::add(weight.to(at::kFloat), 1.0);
}

NormLayer::NormLayer(NormKind kind, double eps, at::Tensor weight, at::Tensor bias)
    : kind_(kind), eps_(eps), weight_(std::move(weight)), bias_(std::move(bias)) {}

NormLayer NormLayer::Load(const ModelConfig& config, WeightName weight, std::optional<WeightName> bias, int layer,
                          WeightLoader& weights) {
  return NormLayer(config.norm, config.norm_eps, LoadNormWeight(config, weight, layer, weights),
                   bias.has_value() ? weights.LoadIfAny(*bias, layer) : at::Tensor());
}

void NormLayer::Run(const at::Tensor& x, at::Tensor* residual, at::Tensor& y) const {
  switch (kind_) {
    case NormKind::kRms:
    case NormKind::kRmsPlusOne:
      return ThrowIfError(RmsNorm({x, weight_, eps_, residual, y}));
    case NormKind::kLayer:
      return ThrowIfError(LayerNorm({x, weight_, bias_, eps_, residual, y}));
  }
}

at::Tensor NormLayer::Forward(const at::Tensor& x) const {
  at::Tensor y = at::empty_like(x);
  Run(x, nullptr, y);
  return y;
}

at::Tensor NormLayer::AddAndForward(const at::Tensor& x, at::Tensor& residual) const {
  at::Tensor y = at::empty_like(x);
  Run(x, &residual, y);
  return y;
}

void NormLayer::AddInto(const at::Tensor& x, at::Tensor& residual) const { Run(x, &residual, residual); }

}  // namespace lorad
