#include "model/layers/attention.h"

#include <ATen/ops/empty.h>

#include "model/base/guarded.h"
#include "model/layers/norm.h"
#include "model/ops/paged_attention.h"
#include "model/ops/rope_kv_write.h"

namespace lorad {
namespace {

SiteGroup QkvGroup(const ModelConfig& config, int layer) {
  const int64_t q = config.num_heads * config.head_dim;
  const int64_t kv = config.num_kv_heads * config.head_dim;
  if (config.fused_projections) return {layer, -1, {{Site::kQkvProj, 0, q + 2 * kv}}};
  return {layer, -1, {{Site::kQProj, 0, q}, {Site::kKProj, q, kv}, {Site::kVProj, q + kv, kv}}};
}

at::Tensor QkvWeight(const ModelConfig& config, int layer, WeightLoader& weights) {
  if (config.fused_projections) return weights.Load(WeightName::kQkvProj, layer);
  return weights.LoadStacked({WeightName::kQProj, WeightName::kKProj, WeightName::kVProj}, layer);
}

}  // namespace

AttentionLayer::AttentionLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : layer_(layer),
      num_heads_(config.num_heads),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      window_tokens_(config.window_tokens[static_cast<size_t>(layer)]),
      scale_(config.attention_scale),
      softcap_(config.attention_softcap),
      norm_eps_(config.norm_eps),
      local_rope_(config.local_rope.has_value() && window_tokens_ > 0),
      qkv_(QkvWeight(config, layer, weights),
           weights.LoadStacked({WeightName::kQBias, WeightName::kKBias, WeightName::kVBias}, layer),
           QkvGroup(config, layer)),
      q_norm_(LoadNormWeight(config, WeightName::kQNorm, layer, weights)),
      k_norm_(LoadNormWeight(config, WeightName::kKNorm, layer, weights)),
      o_(weights.Load(WeightName::kOProj, layer), weights.LoadIfAny(WeightName::kOBias, layer),
         {layer, -1, {{Site::kOProj, 0, config.hidden_size}}}) {}

at::Tensor AttentionLayer::Forward(const at::Tensor& x, const StepContext& step) const {
  const ForwardBatch& batch = step.batch;
  const RopeRows& rope = local_rope_ ? step.local_rope : step.rope;
  at::Tensor qkv = qkv_.Forward(x, step.seam, batch.rows);
  ThrowIfError(RopeKvWrite({.qkv = qkv,
                            .num_heads = num_heads_,
                            .num_kv_heads = num_kv_heads_,
                            .head_dim = head_dim_,
                            .positions = rope.rows,
                            .cos = rope.cos,
                            .sin = rope.sin,
                            .q_norm = q_norm_,
                            .k_norm = k_norm_,
                            .norm_eps = norm_eps_,
                            .kv_slots = batch.kv_slots,
                            .layer = layer_,
                            .kv = step.kv}));
  const at::Tensor q = qkv.narrow(1, 0, num_heads_ * head_dim_);
  at::Tensor mixed = at::empty({x.size(0), num_heads_ * head_dim_}, x.options());
  ThrowIfError(PagedAttention({.q = q,
                               .num_heads = num_heads_,
                               .positions = batch.positions,
                               .cu_rows = batch.cu_rows,
                               .block_table = batch.block_table,
                               .layer = layer_,
                               .window_tokens = window_tokens_,
                               .scale = scale_,
                               .softcap = softcap_,
                               .kv = step.kv,
                               .y = mixed}));
  return o_.Forward(mixed, step.seam, batch.rows);
}

}  // namespace lorad
