#include "model/layers/embedding.h"

#include <utility>

#include <ATen/ops/empty.h>

#include "model/base/guarded.h"
#include "model/ops/embedding.h"

namespace lorad {

EmbeddingLayer::EmbeddingLayer(at::Tensor table) : table_(std::move(table)) {}

at::Tensor EmbeddingLayer::Forward(const at::Tensor& ids, AdapterSeam& seam, const RowSegments& rows) const {
  at::Tensor y = at::empty({ids.size(0), table_.size(1)}, table_.options());
  ThrowIfError(Embedding({ids, table_, y}));
  return seam.FinishEmbedding(ids, std::move(y), rows);
}

}  // namespace lorad
