#pragma once

#include <ATen/core/Tensor.h>

#include "model/adapter_seam.h"

namespace lorad {

// Token ids to rows of the base table, then the seam.
class EmbeddingLayer final {
 public:
  explicit EmbeddingLayer(at::Tensor table);  // [V, H]

  // ids [R] int32 -> [R, H]
  at::Tensor Forward(const at::Tensor& ids, AdapterSeam& seam, const RowSegments& rows) const;

 private:
  at::Tensor table_;
};

}  // namespace lorad
