#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/ops/draw_row.h"

namespace lorad {

// Turns rows of logits into tokens where they lie, on a device; what each effect means is said in
// model/sampler/candidates.h, and Sample (model/sampler/sampler.h) is the form for the CPU.
//
// logits [L, V] f32, contiguous rows, V <= kMostDrawnLogits: a drawn row's are overwritten where it has edits. rows
// [R], each of a logit row of its own. edits: a row's are first_edit .. + edits, of ascending ids, each once. drawn
// [DrawnBytes(R, most)] uint8: R DrawnRow, then for each row `most` DrawnLogprob, of which its `top` (or its
// vocabulary, if that is less) are written. Sums are of integers: a row's result is the same in any batch.
// Errors: InvalidArgument names the argument and its shape; Unimplemented on the CPU, and without CUDA.
struct DrawRowsArgs {
  at::Tensor& logits;
  absl::Span<const DrawRow> rows;
  absl::Span<const LogitEdit> edits;
  int64_t most;
  at::Tensor& drawn;
};
absl::Status DrawRows(const DrawRowsArgs& args);

}  // namespace lorad
