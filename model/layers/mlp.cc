#include "model/layers/mlp.h"

#include <utility>

#include "model/ops/autograd/row_ops.h"

namespace lorad {

namespace {

LinearLayer LoadUp(const ModelConfig& config, int layer, WeightLoader& weights) {
  const int64_t width = config.intermediate_size;
  if (!config.gated_ffn) {
    return LinearLayer(weights.Load(WeightName::kUpProj, layer), weights.LoadIfAny(WeightName::kUpBias, layer),
                       {layer, -1, {{Site::kUpProj, 0, width}}});
  }
  if (config.fused_projections) {
    return LinearLayer(weights.Load(WeightName::kGateUpProj, layer), at::Tensor(),
                       {layer, -1, {{Site::kGateUpProj, 0, 2 * width}}});
  }
  return LinearLayer(weights.LoadStacked({WeightName::kGateProj, WeightName::kUpProj}, layer),
                     weights.LoadStacked({WeightName::kGateBias, WeightName::kUpBias}, layer),
                     {layer, -1, {{Site::kGateProj, 0, width}, {Site::kUpProj, width, width}}});
}

}  // namespace

MlpLayer::MlpLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : layer_(layer),
      activation_(config.activation),
      gated_(config.gated_ffn),
      up_(LoadUp(config, layer, weights)),
      down_(weights.Load(WeightName::kDownProj, layer), weights.LoadIfAny(WeightName::kDownBias, layer),
            {layer, -1, {{Site::kDownProj, 0, config.hidden_size}}}) {}

at::Tensor MlpLayer::Forward(const at::Tensor& x, const StepContext& step) const {
  at::Tensor inner = up_.Base(x);
  const RowRouting routing = step.seam.RouteFfn(layer_, x, step.batch.rows);
  inner = up_.Finish(x, std::move(inner), step.seam, *routing.rows);
  inner = gated_ ? GatedActivationOf(inner, activation_) : ActivationOf(inner, activation_);
  return down_.Forward(inner, step.seam, *routing.rows);
}

}  // namespace lorad
