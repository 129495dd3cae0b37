#include "model/layers/attention.h"

#include <utility>
#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>

#include "model/base/guarded.h"
#include "model/layers/norm.h"
#include "model/ops/autograd/row_ops.h"
#include "model/ops/autograd/sequence_attention.h"
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

LinearWeight QkvWeight(const ModelConfig& config, int layer, WeightLoader& weights) {
  if (config.fused_projections) return weights.LoadMatrix({WeightName::kQkvProj}, layer);
  return weights.LoadMatrix({WeightName::kQProj, WeightName::kKProj, WeightName::kVProj}, layer);
}

at::Tensor RowsOf(const at::Tensor& all, int64_t first, int64_t count) {
  return count == all.size(0) ? all : all.narrow(0, first, count);
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
      norm_kind_(config.norm),
      norm_eps_(config.norm_eps),
      local_rope_(config.local_rope.has_value() && window_tokens_ > 0),
      qkv_(QkvWeight(config, layer, weights),
           weights.LoadStacked({WeightName::kQBias, WeightName::kKBias, WeightName::kVBias}, layer),
           QkvGroup(config, layer)),
      q_norm_(NormWeightAsApplied(config.norm, weights.LoadIfAny(WeightName::kQNorm, layer))),
      k_norm_(NormWeightAsApplied(config.norm, weights.LoadIfAny(WeightName::kKNorm, layer))),
      o_(weights.LoadMatrix({WeightName::kOProj}, layer), weights.LoadIfAny(WeightName::kOBias, layer),
         {layer, -1, {{Site::kOProj, 0, config.hidden_size}}}) {}

std::vector<AttentionLayer::HeadNorms> AttentionLayer::HeadNormsOf(int64_t rows, const StepContext& step) const {
  std::vector<HeadNorms> all = {{.first = 0, .count = rows, .q = q_norm_, .k = k_norm_}};
  if (!q_norm_.defined() && !k_norm_.defined()) return all;
  const auto replace = [&](Site site, at::Tensor HeadNorms::*weight) {
    const NormOverride* replaced = step.seam.Norm(layer_, site, step.batch.rows);
    if (replaced == nullptr) return;
    for (const NormOverride::Rows& own : replaced->rows) {
      for (const int64_t cut : {own.first, own.first + own.count}) CutAt(cut, &all);
      for (HeadNorms& part : all) {
        if (part.first < own.first || part.first >= own.first + own.count) continue;
        part.*weight = NormWeightAsApplied(norm_kind_, own.weight);
      }
    }
  };
  replace(Site::kQNorm, &HeadNorms::q);
  replace(Site::kKNorm, &HeadNorms::k);
  return all;
}

void AttentionLayer::CutAt(int64_t row, std::vector<HeadNorms>* parts) {
  for (size_t i = 0; i < parts->size(); ++i) {
    HeadNorms& part = (*parts)[i];
    if (row <= part.first || row >= part.first + part.count) continue;
    HeadNorms rest = part;
    rest.first = row;
    rest.count = part.first + part.count - row;
    part.count = row - part.first;
    parts->insert(parts->begin() + static_cast<int64_t>(i) + 1, std::move(rest));
    return;
  }
}

at::Tensor AttentionLayer::Forward(const at::Tensor& x, const StepContext& step) const {
  at::Tensor qkv = qkv_.Forward(x, step.seam, step.batch.rows);
  const at::Tensor mixed = step.kv.arena == nullptr ? AttendSequences(qkv, step) : AttendCache(qkv, step);
  return o_.Forward(mixed, step.seam, step.batch.rows);
}

WeightRows AttentionLayer::WeightOf(Site site) const {
  const WeightRows of_qkv = qkv_.WeightOf(site);
  return of_qkv.defined() ? of_qkv : o_.WeightOf(site);
}

at::Tensor AttentionLayer::AttendCache(at::Tensor& qkv, const StepContext& step) const {
  const ForwardBatch& batch = step.batch;
  const RopeRows& rope = local_rope_ ? step.local_rope : step.rope;
  for (const HeadNorms& norms : HeadNormsOf(qkv.size(0), step)) {
    at::Tensor rows = RowsOf(qkv, norms.first, norms.count);
    ThrowIfError(RopeKvWrite({.qkv = rows,
                              .num_heads = num_heads_,
                              .num_kv_heads = num_kv_heads_,
                              .head_dim = head_dim_,
                              .positions = RowsOf(rope.rows, norms.first, norms.count),
                              .cos = rope.cos,
                              .sin = rope.sin,
                              .q_norm = norms.q,
                              .k_norm = norms.k,
                              .norm_eps = norm_eps_,
                              .kv_slots = RowsOf(batch.kv_slots, norms.first, norms.count),
                              .layer = layer_,
                              .kv = step.kv}));
  }
  const at::Tensor q = qkv.narrow(1, 0, num_heads_ * head_dim_);
  at::Tensor mixed = at::empty({qkv.size(0), num_heads_ * head_dim_}, qkv.options());
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
  return mixed;
}

at::Tensor AttentionLayer::AttendSequences(const at::Tensor& qkv, const StepContext& step) const {
  const ForwardBatch& batch = step.batch;
  const RopeRows& rope = local_rope_ ? step.local_rope : step.rope;
  const at::Tensor cos = at::index_select(rope.cos, 0, rope.rows), sin = at::index_select(rope.sin, 0, rope.rows);
  const std::vector<HeadNorms> norms = HeadNormsOf(qkv.size(0), step);
  // Columns first .. of `heads` heads, normed where the model does, -> [T, heads, D]
  const auto heads_at = [&](int64_t first, int64_t heads, at::Tensor HeadNorms::*norm) {
    const at::Tensor columns = qkv.narrow(1, first * head_dim_, heads * head_dim_);
    if (norm == nullptr || !(norms[0].*norm).defined()) return columns.reshape({-1, heads, head_dim_});
    std::vector<at::Tensor> blocks;
    for (const HeadNorms& part : norms) {
      const at::Tensor of_part = RowsOf(columns, part.first, part.count).reshape({-1, head_dim_});
      blocks.push_back(RmsNormOf(of_part, part.*norm, norm_eps_));
    }
    return (blocks.size() == 1 ? blocks[0] : at::cat(blocks, 0)).view({-1, heads, head_dim_});
  };
  std::vector<int32_t> starts = {0};
  for (const int64_t tokens : batch.sequence_tokens) starts.push_back(starts.back() + static_cast<int32_t>(tokens));
  const at::Tensor q = RotateHeads(heads_at(0, num_heads_, &HeadNorms::q), cos, sin);
  const at::Tensor k = RotateHeads(heads_at(num_heads_, num_kv_heads_, &HeadNorms::k), cos, sin);
  const at::Tensor v = heads_at(num_heads_ + num_kv_heads_, num_kv_heads_, nullptr);
  return SequenceAttention({.q = q,
                            .k = k,
                            .v = v,
                            .starts = starts,
                            .window_tokens = window_tokens_,
                            .scale = scale_,
                            .softcap = softcap_});
}

}  // namespace lorad
