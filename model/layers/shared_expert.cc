#include "model/layers/shared_expert.h"

#include "model/ops/autograd/row_ops.h"

namespace lorad {

SharedExpertLayer::SharedExpertLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : intermediate_size_(config.routed.shared_intermediate_size),
      activation_(config.activation),
      gate_up_(weights.LoadMatrix({WeightName::kSharedGateProj, WeightName::kSharedUpProj}, layer), at::Tensor(),
               {layer,
                -1,
                {{Site::kSharedGateProj, 0, intermediate_size_},
                 {Site::kSharedUpProj, intermediate_size_, intermediate_size_}}}),
      down_(weights.LoadMatrix({WeightName::kSharedDownProj}, layer), at::Tensor(),
            {layer, -1, {{Site::kSharedDownProj, 0, config.hidden_size}}}),
      gate_(weights.Load(WeightName::kSharedGate, layer), at::Tensor(), {layer, -1, {{Site::kSharedGate, 0, 1}}}) {}

SharedExpertLayer::Output SharedExpertLayer::Forward(const at::Tensor& x, const StepContext& step) const {
  const RowSegments& rows = step.batch.rows;
  const at::Tensor gate_up = gate_up_.Forward(x, step.seam, rows);
  const at::Tensor inner = GatedActivationOf(gate_up, activation_);
  return {down_.Forward(inner, step.seam, rows), gate_.Forward(x, step.seam, rows)};
}

}  // namespace lorad
