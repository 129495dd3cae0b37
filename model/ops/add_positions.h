#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

// y[r] += table[positions[r] + offset], rounded once.
//
// positions [R] int32, from 0; table [P, H]; y [R, H]; table and y of one dtype (f32, bf16).
// Errors: InvalidArgument for shapes and for a position whose row the table lacks.
// Source: HF OPTLearnedPositionalEmbedding, whose first two rows belong to padding (offset 2).
struct AddPositionsArgs {
  const at::Tensor& positions;
  const at::Tensor& table;
  int64_t offset;
  at::Tensor& y;
};
absl::Status AddPositions(const AddPositionsArgs& args);

}  // namespace lorad
