#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "model/layers/attention.h"
#include "model/layers/ffn.h"
#include "model/layers/norm.h"

namespace lorad {

// One decoder layer of any BlockKind. Where a norm follows a sum, the sum is the norm's: a block takes what the one
// before it has not added yet and leaves its own output for the next norm.
class BlockLayer final {
 public:
  BlockLayer(const ModelConfig& config, int layer, WeightLoader& weights);

  // residual [T, H] in place; `pending` [T, H] is to be added to it first, or undefined. Returns the new pending rows,
  // undefined if there are none.
  at::Tensor Forward(at::Tensor& residual, const at::Tensor& pending, const StepContext& step) const;

  WeightRows WeightOf(Site site) const;  // as LinearLayer's

 private:
  const BlockKind kind_;
  NormLayer input_norm_;  // of a post-norm block: behind the attention
  AttentionLayer attention_;
  NormLayer post_attention_norm_;  // of a post-norm block: behind the FFN; a parallel one has none
  FfnLayer mlp_;
  std::optional<NormLayer> attention_out_norm_;  // of sandwich norms
  std::optional<NormLayer> mlp_out_norm_;
};

}  // namespace lorad
