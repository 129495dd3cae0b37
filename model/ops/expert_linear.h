#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/ops/linear.h"

namespace lorad {

// Many matmuls, one for each expert, over rows sorted by expert; the weights of an expert without rows are not read,
// those of any other once.
//
//   for e, for p in starts[e]..starts[e+1], for each part:
//     y[p, part.first_column : + columns] = x[rows[p]] part.weights[e]^T
//
// x [R, in], y [P, >= columns]: the weights' dtype (f32, bf16), one device, contiguous rows. part.weights [E], each
// [columns, in]. starts [E+1] ascending from 0 to P; rows [P] within x, or empty: pair p reads row p. Sums in f32.
// A row's result is the same bits as Linear's of less than 32 rows, whatever rows are beside it.
// Errors: InvalidArgument names the argument and its shape; Unimplemented without CUDA.
struct ExpertLinearPart {
  absl::Span<const LinearWeight> weights;
  int64_t first_column;
};
struct ExpertLinearArgs {
  const at::Tensor& x;
  absl::Span<const ExpertLinearPart> parts;
  absl::Span<const int32_t> starts;
  absl::Span<const int32_t> rows;
  at::Tensor& y;
};
absl::Status ExpertLinear(const ExpertLinearArgs& args);

// y[r] = sum over j of weights[r, j] x[pairs[r, j]]  (+ sigmoid(shared_logits[r]) shared[r])
//
// x [P, H], y [R, H], shared [R, H] and shared_logits [R, 1] or both undefined: one dtype (f32, bf16), one device,
// contiguous rows. pairs, weights [R, k]; a negative pair is none. Sums in f32 in the order of j, one rounding.
// `rows` [Q], distinct: only these rows of y are written, pairs and weights are theirs [Q, k], nothing is shared; with
// `add` to what they hold.
// Errors: InvalidArgument names the argument and its shape; Unimplemented without CUDA.
struct CombineExpertsArgs {
  const at::Tensor& x;
  absl::Span<const int32_t> pairs;
  absl::Span<const float> weights;
  const at::Tensor& shared;
  const at::Tensor& shared_logits;
  at::Tensor& y;
  absl::Span<const int32_t> rows = {};
  bool add = false;
};
absl::Status CombineExperts(const CombineExpertsArgs& args);

}  // namespace lorad
