#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "adapters/slot_table.h"
#include "model/row_segments.h"

namespace lorad {

// Puts adapters' own rows of an embedding or a head in the place of the base's, in the rows of a step that use them:
//
//   for g in groups, for term t of g with w = slots[t.slot], w.replaces():
//     embedding  y[r] = w.rows[i]                           where id(i) == ids[r]
//     head       y[r, id(i)] = sum_k x[r, k] w.rows[i, k]   for every i < w.num_rows
//   id(i) = w.row_ids[i], or i where there are none
//
// ids [R] int32; x [R, width], y [R, width] or [R, >= num_rows]: the slots' dtype (f32, bf16), one device, last
// dimension contiguous. Scales of terms do not matter: a replacement is whole. Rows without terms are neither read nor
// written. Errors: InvalidArgument names the bad argument and its shape; Unimplemented without CUDA. Source: peft
// utils/other.py (ModulesToSaveWrapper), tuners/trainable_tokens.
struct ReplaceEmbeddingRowsArgs {
  const at::Tensor& ids;
  at::Tensor& y;
  const SlotWeights* slots;
  int32_t num_slots;
  const RowSegments& rows;
};
absl::Status ReplaceEmbeddingRows(const ReplaceEmbeddingRowsArgs& args);

struct ReplaceHeadRowsArgs {
  const at::Tensor& x;
  at::Tensor& y;
  const SlotWeights* slots;
  int32_t num_slots;
  const RowSegments& rows;
};
absl::Status ReplaceHeadRows(const ReplaceHeadRowsArgs& args);

}  // namespace lorad
