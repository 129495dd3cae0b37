#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/layers/linear.h"
#include "model/layers/step_context.h"
#include "model/weights.h"

namespace lorad {

// Grouped-query attention: fused q|k|v, per-head norms if any, rope, attention, output. Over the paged cache; without
// one (StepContext) the rows are whole sequences, and gradients can be followed.
class AttentionLayer final {
 public:
  AttentionLayer(const ModelConfig& config, int layer, WeightLoader& weights);

  // x [T, H] -> [T, H]
  at::Tensor Forward(const at::Tensor& x, const StepContext& step) const;

  WeightRows WeightOf(Site site) const;  // as LinearLayer's

 private:
  // The norms of q and k heads in some rows: the base's, or an adapter's.
  struct HeadNorms {
    int64_t first;
    int64_t count;
    at::Tensor q;
    at::Tensor k;
  };
  // Of all rows of the step, ascending.
  std::vector<HeadNorms> HeadNormsOf(int64_t rows, const StepContext& step) const;
  static void CutAt(int64_t row, std::vector<HeadNorms>* parts);

  // qkv [T, (Hq + 2 Hkv) * D] -> [T, Hq * D]; the first rotates q in place.
  at::Tensor AttendCache(at::Tensor& qkv, const StepContext& step) const;
  at::Tensor AttendSequences(const at::Tensor& qkv, const StepContext& step) const;

  const int layer_;
  const int64_t num_heads_;
  const int64_t num_kv_heads_;
  const int64_t head_dim_;
  const int64_t window_tokens_;
  const double scale_;
  const double softcap_;
  const NormKind norm_kind_;
  const double norm_eps_;
  const bool local_rope_;
  LinearLayer qkv_;
  at::Tensor q_norm_;  // [head_dim] or undefined
  at::Tensor k_norm_;
  LinearLayer o_;
};

}  // namespace lorad
