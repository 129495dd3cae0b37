#include "model/layers/mlp.h"

#include <utility>

#include <ATen/ops/empty.h>

#include "model/base/guarded.h"
#include "model/ops/gated_activation.h"

namespace lorad {

MlpLayer::MlpLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : layer_(layer),
      intermediate_size_(config.intermediate_size),
      activation_(config.activation),
      gate_up_(weights.LoadStacked({WeightName::kGateProj, WeightName::kUpProj}, layer),
               weights.LoadStacked({WeightName::kGateBias, WeightName::kUpBias}, layer),
               {layer,
                -1,
                {{Site::kGateProj, 0, config.intermediate_size},
                 {Site::kUpProj, config.intermediate_size, config.intermediate_size}}}),
      down_(weights.Load(WeightName::kDownProj, layer), weights.LoadIfAny(WeightName::kDownBias, layer),
            {layer, -1, {{Site::kDownProj, 0, config.hidden_size}}}) {}

at::Tensor MlpLayer::Forward(const at::Tensor& x, const StepContext& step) const {
  at::Tensor gate_up = gate_up_.Base(x);
  const RowRouting routing = step.seam.RouteFfn(layer_, x, step.batch.rows);
  gate_up = gate_up_.Finish(x, std::move(gate_up), step.seam, *routing.rows);
  at::Tensor inner = at::empty({gate_up.size(0), intermediate_size_}, x.options());
  ThrowIfError(GatedActivation({gate_up, activation_, inner}));
  return down_.Forward(inner, step.seam, *routing.rows);
}

}  // namespace lorad
