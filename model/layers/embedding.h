#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "model/adapter_seam.h"
#include "model/config.h"
#include "model/forward_batch.h"
#include "model/layers/linear.h"
#include "model/weights.h"

namespace lorad {

// What enters the first layer: rows of the token table, the seam behind them, so that an adapter's part is scaled too;
// where the model has them, a scale, the projection to its width, learned positions.
class EmbeddingLayer final {
 public:
  EmbeddingLayer(const ModelConfig& config, WeightLoader& weights);

  // The T rows of the batch -> [T, H]
  at::Tensor Forward(const ForwardBatch& batch, AdapterSeam& seam) const;

  const LinearWeight& table() const { return table_; }  // [V, embedding_size]
  WeightRows WeightOf(Site site) const;                 // as LinearLayer's, of the table [embedding_size, V]

 private:
  LinearWeight table_;  // in panels where it is the head's weight, too
  std::optional<LinearLayer> project_in_;
  at::Tensor position_table_;  // [>= max_context_tokens + position_offset, H] or undefined
  int64_t position_offset_;
  double scale_;  // rounded to the table's dtype, as HF does
};

}  // namespace lorad
