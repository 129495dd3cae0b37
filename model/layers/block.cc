#include "model/layers/block.h"

namespace lorad {

BlockLayer::BlockLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : input_norm_(weights.Load(WeightName::kInputNorm, layer), config.norm_eps),
      attention_(config, layer, weights),
      post_attention_norm_(weights.Load(WeightName::kPostAttentionNorm, layer), config.norm_eps),
      mlp_(config, layer, weights) {}

at::Tensor BlockLayer::Forward(at::Tensor& residual, const at::Tensor& pending, const StepContext& step) const {
  const at::Tensor x = pending.defined() ? input_norm_.AddAndForward(pending, residual) : input_norm_.Forward(residual);
  const at::Tensor attended = attention_.Forward(x, step);
  return mlp_.Forward(post_attention_norm_.AddAndForward(attended, residual), step);
}

}  // namespace lorad
