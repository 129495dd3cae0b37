#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "model/layers/linear.h"
#include "model/layers/norm.h"
#include "model/layers/step_context.h"

namespace lorad {

// What follows the last layer: the wanted rows, the final norm, the projection to the embedding's width where the model
// has one, logits.
class HeadLayer final {
 public:
  // embed_table [V, embedding_size] is the head's weight too when the embeddings are tied.
  HeadLayer(const ModelConfig& config, const LinearWeight& embed_table, WeightLoader& weights);

  // residual [T, H], `pending` [T, H] still to be added or undefined -> logits [L, V] fp32 of batch.logit_rows.
  at::Tensor Forward(at::Tensor residual, at::Tensor pending, const StepContext& step) const;

  WeightRows WeightOf(Site site) const;  // as LinearLayer's

 private:
  std::optional<NormLayer> norm_;
  std::optional<LinearLayer> project_out_;
  LinearLayer lm_head_;
  const int64_t vocab_size_;
  const double softcap_;  // 0 = none
};

}  // namespace lorad
