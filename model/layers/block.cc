#include "model/layers/block.h"

#include <ATen/ops/add.h>

namespace lorad {

BlockLayer::BlockLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : kind_(config.block),
      input_norm_(NormLayer::Load(config, Site::kInputNorm, WeightName::kInputNorm, WeightName::kInputNormBias, layer,
                                  weights)),
      attention_(config, layer, weights),
      post_attention_norm_(NormLayer::Load(config, Site::kPostAttentionNorm, WeightName::kPostAttentionNorm,
                                           WeightName::kPostAttentionNormBias, layer, weights)),
      mlp_(config, layer, weights) {
  if (!config.sandwich_norms) return;
  attention_out_norm_ =
      NormLayer::Load(config, Site::kAttentionOutNorm, WeightName::kAttentionOutNorm, std::nullopt, layer, weights);
  mlp_out_norm_ = NormLayer::Load(config, Site::kMlpOutNorm, WeightName::kMlpOutNorm, std::nullopt, layer, weights);
}

WeightRows BlockLayer::WeightOf(Site site) const {
  const WeightRows of_attention = attention_.WeightOf(site);
  return of_attention.defined() ? of_attention : mlp_.WeightOf(site);
}

at::Tensor BlockLayer::Forward(at::Tensor& residual, const at::Tensor& pending, const StepContext& step) const {
  AdapterSeam& seam = step.seam;
  const RowSegments& rows = step.batch.rows;
  const auto first_norm = [&] {
    return pending.defined() ? input_norm_.AddAndForward(pending, residual, seam, rows)
                             : input_norm_.Forward(residual, seam, rows);
  };
  switch (kind_) {
    case BlockKind::kPreNorm: {
      at::Tensor attended = attention_.Forward(first_norm(), step);
      if (attention_out_norm_.has_value()) attended = attention_out_norm_->Forward(attended, seam, rows);
      const at::Tensor y = mlp_.Forward(post_attention_norm_.AddAndForward(attended, residual, seam, rows), step);
      return mlp_out_norm_.has_value() ? mlp_out_norm_->Forward(y, seam, rows) : y;
    }
    case BlockKind::kPostNorm: {
      input_norm_.AddInto(attention_.Forward(residual, step), residual, seam, rows);
      post_attention_norm_.AddInto(mlp_.Forward(residual, step), residual, seam, rows);
      return at::Tensor();
    }
    case BlockKind::kParallel: {
      const at::Tensor x = first_norm();
      return at::add(attention_.Forward(x, step), mlp_.Forward(x, step));
    }
  }
  return at::Tensor();
}

}  // namespace lorad
