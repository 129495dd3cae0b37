#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

// y[r] = table[ids[r]].   ids [R] int32 in [0, V); table [V, H]; y [R, H] (preallocated), the table's dtype.
// Errors: InvalidArgument for shapes and for an id out of range.
struct EmbeddingArgs {
  const at::Tensor& ids;
  const at::Tensor& table;
  at::Tensor& y;
};
absl::Status Embedding(const EmbeddingArgs& args);

}  // namespace lorad
