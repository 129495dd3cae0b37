#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/layers/linear.h"
#include "model/layers/step_context.h"
#include "model/weights.h"

namespace lorad {

// down(act(gate(x)) * up(x)), gate and up fused, or down(act(up(x))) without a gate. A routed adapter may give the rows
// between up and down other segments than the step's.
class MlpLayer final {
 public:
  MlpLayer(const ModelConfig& config, int layer, WeightLoader& weights);

  // x [T, H] -> [T, H]
  at::Tensor Forward(const at::Tensor& x, const StepContext& step) const;

 private:
  const int layer_;
  const Activation activation_;
  const bool gated_;
  LinearLayer up_;  // columns gate | up where there is a gate
  LinearLayer down_;
};

}  // namespace lorad
