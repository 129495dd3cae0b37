#pragma once

#include <ATen/core/Tensor.h>

namespace lorad {

// logits [R, V] f32, targets [R] int64 beside them -> log softmax(logits)[r, targets[r]], [R]. The gradient is written
// over the logits, which are worth nothing once it is followed: nobody else may keep them for a backward. A NaN reaches
// only its own row.
//
// Errors   thrown by LibTorch: call under Guarded.
at::Tensor LogProbabilities(const at::Tensor& logits, const at::Tensor& targets);

}  // namespace lorad
