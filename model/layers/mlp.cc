#include "model/layers/mlp.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include "model/layers/routed_rows.h"
#include "model/ops/autograd/row_ops.h"

namespace lorad {

namespace {

LinearLayer LoadUp(const ModelConfig& config, int layer, WeightLoader& weights) {
  const int64_t width = config.intermediate_size;
  if (!config.gated_ffn) {
    return LinearLayer(weights.LoadMatrix({WeightName::kUpProj}, layer), weights.LoadIfAny(WeightName::kUpBias, layer),
                       {layer, -1, {{Site::kUpProj, 0, width}}});
  }
  if (config.fused_projections) {
    return LinearLayer(weights.LoadMatrix({WeightName::kGateUpProj}, layer), at::Tensor(),
                       {layer, -1, {{Site::kGateUpProj, 0, 2 * width}}});
  }
  return LinearLayer(weights.LoadMatrix({WeightName::kGateProj, WeightName::kUpProj}, layer),
                     weights.LoadStacked({WeightName::kGateBias, WeightName::kUpBias}, layer),
                     {layer, -1, {{Site::kGateProj, 0, width}, {Site::kUpProj, width, width}}});
}

}  // namespace

MlpLayer::MlpLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : layer_(layer),
      intermediate_size_(config.intermediate_size),
      activation_(config.activation),
      gated_(config.gated_ffn),
      up_(LoadUp(config, layer, weights)),
      down_(weights.LoadMatrix({WeightName::kDownProj}, layer), weights.LoadIfAny(WeightName::kDownBias, layer),
            {layer, -1, {{Site::kDownProj, 0, config.hidden_size}}}) {}

at::Tensor MlpLayer::Activated(const at::Tensor& up, Activation activation) const {
  return gated_ ? GatedActivationOf(up, activation) : ActivationOf(up, activation);
}

at::Tensor MlpLayer::ActivatedPairs(at::Tensor up, const RoutedRows& routed) const {
  const auto is_ours = [&](const RoutedRows::OtherActivation& other) { return other.activation == activation_; };
  if (std::all_of(routed.activations.begin(), routed.activations.end(), is_ours)) {
    return Activated(up, activation_);
  }
  std::vector<at::Tensor> blocks;
  const auto append = [&](int64_t first, int64_t end, Activation activation) {
    if (first < end) blocks.push_back(Activated(up.slice(0, first, end), activation));
  };
  int64_t done = 0;
  for (const RoutedRows::OtherActivation& other : routed.activations) {
    append(done, other.first_pair, activation_);
    append(other.first_pair, other.end_pair, other.activation);
    done = other.end_pair;
  }
  append(done, up.size(0), activation_);
  return blocks.size() == 1 ? blocks[0] : at::cat(blocks, 0);
}

at::Tensor MlpLayer::WithDown(const at::Tensor& pairs, const RoutedRows& routed, AdapterSeam& seam,
                              at::Tensor y) const {
  const bool add = !routed.scales_down;
  const at::Tensor made = add ? down_.DeltasOfPairs(pairs, seam, routed)
                              : down_.FinishPairs(pairs, down_.Base(pairs), seam, routed, /*by_row=*/false);
  y = CombinePairs(made, routed, add, std::move(y));
  return add && down_.bias().defined() ? ScaleBias(down_.bias(), routed, std::move(y)) : y;
}

WeightRows MlpLayer::WeightOf(Site site) const {
  const WeightRows of_up = up_.WeightOf(site);
  return of_up.defined() ? of_up : down_.WeightOf(site);
}

at::Tensor MlpLayer::Forward(const at::Tensor& given, const StepContext& step) const {
  const RowRouting routing = step.seam.RouteFfn(layer_, given, step.batch.rows);
  const at::Tensor& x = routing.noisy_input.defined() ? routing.noisy_input : given;
  if (routing.routed == nullptr) {
    const at::Tensor up = up_.Forward(x, step.seam, *routing.rows);
    return down_.Forward(Activated(up, activation_), step.seam, *routing.rows);
  }
  const RoutedRows& routed = *routing.routed;
  at::Tensor up = up_.Base(x);
  at::Tensor pairs = RowsOfPairs(up, routed);
  at::Tensor inner = Activated(up_.Finish(x, std::move(up), step.seam, *routing.rows), activation_);
  pairs = ActivatedPairs(up_.FinishPairs(x, std::move(pairs), step.seam, routed, /*by_row=*/true), routed);
  inner = CombinePairs(pairs, routed, /*add=*/false, std::move(inner));
  at::Tensor y = WithDown(pairs, routed, step.seam, down_.Forward(inner, step.seam, *routing.rows));
  return routed.passed.defined() ? y + routed.passed : y;
}

}  // namespace lorad
