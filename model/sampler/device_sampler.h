#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/sampler/sampler.h"

namespace lorad {

// Sample where the logits lie, on a CUDA device: tokens and log-probabilities come back in one copy, for which this
// waits. Every option is computed there; the numbers are Sample's but for the last bits of exponentials, so that a draw
// differs where it falls within them.
//
// logits [L, V] f32, V <= kMostDrawnLogits (model/ops/draw_row.h); rows, each of a logit row of its own, which is
// overwritten where bias, bans and penalties change it. Threads   of the device's current stream.
// Errors: of single rows as Sample; else what the device answers.
absl::StatusOr<SampleResult> SampleOnDevice(at::Tensor& logits, absl::Span<const SampleRow> rows);

}  // namespace lorad
