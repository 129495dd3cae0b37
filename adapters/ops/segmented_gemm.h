#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "adapters/slot_table.h"
#include "model/base/dtype.h"
#include "model/row_segments.h"

namespace lorad {

// Adds low-rank updates to the rows of y: one call for the whole mixed batch and for all parts of a fused matmul.
//
//   for g in groups, for term t of g in order, for part p with w = p.slots[t.slot], w.adds():
//     y' = y[rows of g, p.first_column : + p.columns],    x' = x[rows.input_rows of them], or x[rows of g]
//     y' = f * (y' + t.scale * w.scale * ((x' A^T) B^T + w.delta_bias)),    A, B^T = w.a, w.b_t[t.expert];
//     where w routes, A and B^T are those of all experts, one below the other, and (x' A^T) of each is multiplied by
//     its weight (adapters/slot_table.h)
//   and then, for part p: y' += w.bias of the last such term that has one
//   f = DoraFactors(w.dora of t.expert, t.scale), 1 without; absent vectors are 0
//
// y [R, >= out], x [R, in], or any number of rows with input_rows: the slots' dtype (f32, bf16), one device, last
// dimension contiguous; rows.rows() == R.
// A bias replaces the base's, which no factor touches: so it comes after all terms, and only one of them counts.
// A [rank, in], B^T [rank, columns], any rank per slot and part; vectors [columns] f32. Sums in f32, one rounding into
// y per term. Rows without terms are neither read nor written. A row's result does not depend on the other rows, but on
// CUDA in bf16 by its last bits on whether its segment has more than 16 rows, which are summed in another order.
// Errors: InvalidArgument names the bad argument and its shape; Unimplemented without CUDA.
// Source: Punica SGMV, arXiv 2310.18547; scale, bias and the order of terms as PEFT lora/layer.py,
// DoRA as its lora/dora.py.
struct SegmentedGemmPart {
  const SlotWeights* slots;  // by slot
  int64_t first_column;
  int64_t columns;
};
struct SegmentedGemmArgs {
  const at::Tensor& x;
  at::Tensor& y;
  absl::Span<const SegmentedGemmPart> parts;
  int32_t num_slots;
  const RowSegments& rows;
};
absl::Status SegmentedGemm(const SegmentedGemmArgs& args);

// The same for an embedding: x is one-hot, so that x A^T is a column of A [rank, V].
//   y[r] = f * (y[r] + t.scale * w.scale * A[:, ids[r]]^T B^T)        ids [R] int32, y [R, columns]
// Its slots have one pair and no router.
struct SegmentedEmbeddingArgs {
  const at::Tensor& ids;
  at::Tensor& y;
  const SlotWeights* slots;
  int32_t num_slots;
  int64_t vocab_size;
  const RowSegments& rows;
};
absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args);

}  // namespace lorad
