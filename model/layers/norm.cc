#include "model/layers/norm.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>

#include "model/base/guarded.h"
#include "model/ops/autograd/row_ops.h"
#include "model/ops/layer_norm.h"
#include "model/ops/rms_norm.h"

namespace lorad {
namespace {

// Somebody trains what stands in for the base's.
bool IsTrained(const NormOverride* replaced) {
  const auto wanted = [](const at::Tensor& parameter) { return parameter.defined() && NeedsGradient(parameter); };
  return replaced != nullptr && std::any_of(replaced->rows.begin(), replaced->rows.end(),
                                            [&](const auto& own) { return wanted(own.weight) || wanted(own.bias); });
}

}  // namespace

at::Tensor NormWeightAsApplied(NormKind kind, at::Tensor stored) {
  if (kind != NormKind::kRmsPlusOne || !stored.defined()) return stored;
  return at::add(stored.to(at::kFloat), 1.0);
}

NormLayer::NormLayer(const ModelConfig& config, Site site, int layer, at::Tensor weight, at::Tensor bias)
    : kind_(config.norm),
      eps_(config.norm_eps),
      site_(site),
      layer_(layer),
      weight_(NormWeightAsApplied(config.norm, std::move(weight))),
      bias_(std::move(bias)) {}

NormLayer NormLayer::Load(const ModelConfig& config, Site site, WeightName weight, std::optional<WeightName> bias,
                          int layer, WeightLoader& weights) {
  return NormLayer(config, site, layer, weights.LoadIfAny(weight, layer),
                   bias.has_value() ? weights.LoadIfAny(*bias, layer) : at::Tensor());
}

void NormLayer::RunWith(const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& x, at::Tensor* residual,
                        at::Tensor& y) const {
  switch (kind_) {
    case NormKind::kRms:
    case NormKind::kRmsPlusOne:
      return ThrowIfError(RmsNorm({x, weight, eps_, residual, y}));
    case NormKind::kLayer:
      return ThrowIfError(LayerNorm({x, weight, bias, eps_, residual, y}));
  }
}

void NormLayer::Run(const at::Tensor& x, at::Tensor* residual, at::Tensor& y, const NormOverride* replaced) const {
  if (replaced == nullptr) return RunWith(weight_, bias_, x, residual, y);
  // Rows with weights of their own are normed aside, and first: the pass over all rows may write over what it reads.
  std::vector<at::Tensor> aside;
  for (const NormOverride::Rows& own : replaced->rows) {
    const at::Tensor own_x = x.narrow(0, own.first, own.count);
    at::Tensor own_residual = residual == nullptr ? at::Tensor() : residual->narrow(0, own.first, own.count).clone();
    aside.push_back(at::empty_like(own_x));
    RunWith(WeightOf(own), BiasOf(own), own_x, residual == nullptr ? nullptr : &own_residual, aside.back());
  }
  RunWith(weight_, bias_, x, residual, y);
  for (size_t i = 0; i < aside.size(); ++i) {
    y.narrow(0, replaced->rows[i].first, replaced->rows[i].count).copy_(aside[i]);
  }
}

at::Tensor NormLayer::WeightOf(const NormOverride::Rows& own) const {
  return own.weight.defined() ? NormWeightAsApplied(kind_, own.weight) : weight_;
}

at::Tensor NormLayer::BiasOf(const NormOverride::Rows& own) const { return own.bias.defined() ? own.bias : bias_; }

at::Tensor NormLayer::Forward(const at::Tensor& x, AdapterSeam& seam, const RowSegments& rows) const {
  const NormOverride* replaced = seam.Norm(layer_, site_, rows);
  if (NeedsGradient(x) || IsTrained(replaced)) return ForwardRecorded(x, replaced);
  at::Tensor y = at::empty_like(x);
  Run(x, nullptr, y, replaced);
  return y;
}

at::Tensor NormLayer::ForwardRecorded(const at::Tensor& x, const NormOverride* replaced) const {
  std::vector<at::Tensor> blocks;
  int64_t next = 0;
  const auto add = [&](int64_t end, const at::Tensor& weight, const at::Tensor& bias) {
    if (end == next) return;
    const at::Tensor rows = x.narrow(0, next, end - next);
    blocks.push_back(kind_ == NormKind::kLayer ? LayerNormOf(rows, weight, bias, eps_) : RmsNormOf(rows, weight, eps_));
    next = end;
  };
  if (replaced != nullptr) {
    for (const NormOverride::Rows& own : replaced->rows) {
      add(own.first, weight_, bias_);
      add(own.first + own.count, WeightOf(own), BiasOf(own));
    }
  }
  add(x.size(0), weight_, bias_);
  return blocks.size() == 1 ? blocks[0] : at::cat(blocks, 0);
}

at::Tensor NormLayer::AddAndForward(const at::Tensor& x, at::Tensor& residual, AdapterSeam& seam,
                                    const RowSegments& rows) const {
  const NormOverride* replaced = seam.Norm(layer_, site_, rows);
  if (NeedsGradient(x) || NeedsGradient(residual) || IsTrained(replaced)) {
    residual = at::add(residual, x);
    return ForwardRecorded(residual, replaced);
  }
  at::Tensor y = at::empty_like(x);
  Run(x, &residual, y, replaced);
  return y;
}

void NormLayer::AddInto(const at::Tensor& x, at::Tensor& residual, AdapterSeam& seam, const RowSegments& rows) const {
  const NormOverride* replaced = seam.Norm(layer_, site_, rows);
  if (NeedsGradient(x) || NeedsGradient(residual) || IsTrained(replaced)) {
    residual = ForwardRecorded(at::add(residual, x), replaced);
  } else {
    Run(x, &residual, residual, replaced);
  }
}

}  // namespace lorad
