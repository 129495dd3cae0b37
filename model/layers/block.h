#pragma once

#include <ATen/core/Tensor.h>

#include "model/layers/attention.h"
#include "model/layers/mlp.h"
#include "model/layers/norm.h"

namespace lorad {

// One pre-norm decoder layer. The residual stream is summed inside the norms: a block takes what the one before it
// has not added yet and leaves its own FFN's output for the next norm.
class BlockLayer final {
 public:
  BlockLayer(const ModelConfig& config, int layer, WeightLoader& weights);

  // residual [T, H] in place; `pending` [T, H] is to be added to it first, or undefined. Returns the new pending rows.
  at::Tensor Forward(at::Tensor& residual, const at::Tensor& pending, const StepContext& step) const;

 private:
  NormLayer input_norm_;
  AttentionLayer attention_;
  NormLayer post_attention_norm_;
  MlpLayer mlp_;
};

}  // namespace lorad
