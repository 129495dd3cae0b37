#include "model/layers/block.h"

namespace lorad {

BlockLayer::BlockLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : kind_(config.block),
      input_norm_(NormLayer::Load(config, WeightName::kInputNorm, WeightName::kInputNormBias, layer, weights)),
      attention_(config, layer, weights),
      post_attention_norm_(
          NormLayer::Load(config, WeightName::kPostAttentionNorm, WeightName::kPostAttentionNormBias, layer, weights)),
      mlp_(config, layer, weights) {
  if (!config.sandwich_norms) return;
  attention_out_norm_ = NormLayer::Load(config, WeightName::kAttentionOutNorm, std::nullopt, layer, weights);
  mlp_out_norm_ = NormLayer::Load(config, WeightName::kMlpOutNorm, std::nullopt, layer, weights);
}

at::Tensor BlockLayer::Forward(at::Tensor& residual, const at::Tensor& pending, const StepContext& step) const {
  const auto first_norm = [&] {
    return pending.defined() ? input_norm_.AddAndForward(pending, residual) : input_norm_.Forward(residual);
  };
  switch (kind_) {
    case BlockKind::kPreNorm: {
      at::Tensor attended = attention_.Forward(first_norm(), step);
      if (attention_out_norm_.has_value()) attended = attention_out_norm_->Forward(attended);
      const at::Tensor y = mlp_.Forward(post_attention_norm_.AddAndForward(attended, residual), step);
      return mlp_out_norm_.has_value() ? mlp_out_norm_->Forward(y) : y;
    }
    case BlockKind::kPostNorm: {
      input_norm_.AddInto(attention_.Forward(residual, step), residual);
      post_attention_norm_.AddInto(mlp_.Forward(residual, step), residual);
      return at::Tensor();
    }
    case BlockKind::kParallel: {
      const at::Tensor x = first_norm();
      return attention_.Forward(x, step).add_(mlp_.Forward(x, step));
    }
  }
  return at::Tensor();
}

}  // namespace lorad
