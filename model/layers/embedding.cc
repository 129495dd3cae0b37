#include "model/layers/embedding.h"

#include <utility>

#include <ATen/ops/add.h>
#include <ATen/ops/clamp_max.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/scalar_tensor.h>

#include "model/base/guarded.h"
#include "model/ops/add_positions.h"
#include "model/ops/autograd/row_ops.h"
#include "model/ops/embedding.h"

namespace lorad {

EmbeddingLayer::EmbeddingLayer(const ModelConfig& config, WeightLoader& weights)
    : table_(config.tied_embeddings ? weights.LoadWhole(WeightName::kEmbedTokens)
                                    : LinearWeight::Prepare(weights.Load(WeightName::kEmbedTokens))),
      position_table_(weights.LoadIfAny(WeightName::kPositions)),
      position_offset_(config.position_offset),
      scale_(at::scalar_tensor(config.embedding_scale, table_.weight().scalar_type()).item<double>()) {
  if (!weights.Has(WeightName::kProjectIn)) return;
  project_in_.emplace(weights.Load(WeightName::kProjectIn), at::Tensor(),
                      SiteGroup{-1, -1, {{Site::kProjectIn, 0, config.hidden_size}}});
}

at::Tensor EmbeddingLayer::Forward(const ForwardBatch& batch, AdapterSeam& seam) const {
  at::Tensor y = at::empty({batch.token_ids.size(0), table_.in_features()}, table_.weight().options());
  // Beyond the table are adapters' own tokens, whose rows the seam puts in.
  const at::Tensor ids =
      batch.rows.base_only() ? batch.token_ids : at::clamp_max(batch.token_ids, table_.out_features() - 1);
  ThrowIfError(Embedding({ids, table_, y}));
  y = seam.FinishEmbedding(batch.token_ids, std::move(y), batch.rows);
  if (scale_ != 1.0) y = at::mul(y, scale_);
  if (project_in_.has_value()) y = project_in_->Forward(y, seam, batch.rows);
  if (!position_table_.defined()) return y;
  if (NeedsGradient(y)) {
    return at::add(y, at::index_select(position_table_, 0, at::add(batch.positions, position_offset_)));
  }
  ThrowIfError(AddPositions({batch.positions, position_table_, position_offset_, y}));
  return y;
}

WeightRows EmbeddingLayer::WeightOf(Site site) const {
  if (site == Site::kEmbedTokens) {
    return table_.packed() ? WeightRows() : WeightRows(LinearWeight::Prepare(table_.weight().t()), /*first_row=*/0);
  }
  return project_in_.has_value() ? project_in_->WeightOf(site) : WeightRows();
}

}  // namespace lorad
