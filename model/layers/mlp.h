#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/layers/linear.h"
#include "model/layers/step_context.h"
#include "model/weights.h"

namespace lorad {

// down(act(gate(x)) * up(x)), gate and up fused, or down(act(up(x))) without a gate.
//
// Rows that an adapter routes to experts of its own: up's base is computed once, whatever the number of experts, and so
// is down's, because it is linear:
//   sum_e w_e (W a_e + b + D_e(a_e)) = W sum_e w_e a_e + b sum_e w_e + sum_e w_e D_e(a_e)
// The other rows of the step pay nothing for them. Where one more adapter's DoRA multiplies W a_e, which is no sum,
// down is computed for each of a row's experts, as it is written on the left. Source   MixLoRA, arXiv 2404.15159;
// MoE-PEFT's feed_forward.py.
class MlpLayer final {
 public:
  MlpLayer(const ModelConfig& config, int layer, WeightLoader& weights);

  // x [T, H] -> [T, H]
  at::Tensor Forward(const at::Tensor& x, const StepContext& step) const;

  WeightRows WeightOf(Site site) const;  // as LinearLayer's

 private:
  // up's columns [R, 1 or 2 * intermediate] -> [R, intermediate]; may be in place.
  at::Tensor Activated(const at::Tensor& up, Activation activation) const;
  at::Tensor ActivatedPairs(at::Tensor up, const RoutedRows& routed) const;
  // y [T, H] and what the adapters' down matrices make of the pairs' rows, or all of down in its place.
  at::Tensor WithDown(const at::Tensor& pairs, const RoutedRows& routed, AdapterSeam& seam, at::Tensor y) const;

  const int layer_;
  const int64_t intermediate_size_;
  const Activation activation_;
  const bool gated_;
  LinearLayer up_;  // columns gate | up where there is a gate
  LinearLayer down_;
};

}  // namespace lorad
