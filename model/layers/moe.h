#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/layers/expert_linear.h"
#include "model/layers/linear.h"
#include "model/layers/shared_expert.h"
#include "model/layers/step_context.h"
#include "model/weights.h"

namespace lorad {

// A routed FFN: each row passes through its best few experts, which are gated MLPs, and through the shared one if
// there is one.
//
//   y = sum over chosen e of w_e down_e(act(gate_e(x)) * up_e(x))  (+ sigmoid(shared_gate(x)) shared(x))
//
// The weighted outputs of a row are summed in fp32 by ascending expert, so that its neighbours do not matter. Rows
// without a cache are training's. Source   HF MixtralSparseMoeBlock, Qwen2MoeSparseMoeBlock, Qwen3MoeSparseMoeBlock.
class MoeLayer final {
 public:
  MoeLayer(const ModelConfig& config, int layer, WeightLoader& weights);

  // x [T, H] -> [T, H]
  at::Tensor Forward(const at::Tensor& x, const StepContext& step) const;

 private:
  // The experts' outputs [P, H] of the pairs.
  at::Tensor Experts(const at::Tensor& x, const ExpertRows& pairs, const StepContext& step) const;
  // By rows dealt where they are: nothing waits for the host.
  at::Tensor ForwardDealt(const at::Tensor& x, const at::Tensor& logits, const StepContext& step) const;
  // What the shared expert makes of x, if there is one.
  SharedExpertLayer::Output Shared(const at::Tensor& x, const StepContext& step) const;
  // By operators that a gradient goes through: through the experts, their weights and what chose them.
  at::Tensor ForwardInTraining(const at::Tensor& x, const StepContext& step) const;

  const RoutedFfnConfig routed_;
  const Activation activation_;
  LinearLayer router_;
  ExpertLinearLayer gate_up_;
  ExpertLinearLayer down_;
  std::optional<SharedExpertLayer> shared_;
};

}  // namespace lorad
