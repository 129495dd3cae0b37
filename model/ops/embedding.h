#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "model/ops/linear.h"

namespace lorad {

// y[r] = table[ids[r]].   ids [R] int32 in [0, V); table [V, H], not quantised; y [R, H] (preallocated), the table's
// dtype.
// Errors: InvalidArgument for shapes and for an id out of range.
struct EmbeddingArgs {
  const at::Tensor& ids;
  const LinearWeight& table;
  at::Tensor& y;
};
absl::Status Embedding(const EmbeddingArgs& args);

}  // namespace lorad
