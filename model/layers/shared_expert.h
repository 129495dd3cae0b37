#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/layers/linear.h"
#include "model/layers/step_context.h"
#include "model/weights.h"

namespace lorad {

// The expert of a routed FFN that every row passes: a gated MLP, and a linear layer that says how much it counts.
class SharedExpertLayer final {
 public:
  SharedExpertLayer(const ModelConfig& config, int layer, WeightLoader& weights);

  struct Output {
    at::Tensor rows;    // [T, H]
    at::Tensor logits;  // [T, 1]; the rows count sigmoid of it
  };
  // x [T, H]
  Output Forward(const at::Tensor& x, const StepContext& step) const;

 private:
  const int64_t intermediate_size_;
  const Activation activation_;
  LinearLayer gate_up_;
  LinearLayer down_;
  LinearLayer gate_;
};

}  // namespace lorad
