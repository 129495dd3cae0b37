#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "model/ops/draw_row.h"

namespace lorad {

// Puts tokens where a step's ids name draws:
//
//   for each t:  if ids[t] == TokenOfDraw(n), n >= 0:  ids[t] = drawn[n]
//
// ids [T] int32, contiguous; other values stay. drawn [R] int32, of any stride, on the same device. CUDA: queued on the
// current stream.
// Errors: InvalidArgument for shapes, and for a draw that is not there: on CUDA that id becomes -1, a row of NaN.
struct PutDrawnTokensArgs {
  const at::Tensor& drawn;
  at::Tensor& ids;
};
absl::Status PutDrawnTokens(const PutDrawnTokensArgs& args);

}  // namespace lorad
