#pragma once

#include <ATen/core/Tensor.h>

#include "model/ops/linear.h"

namespace lorad {

// The gradient of Linear's x: g W, for g [R, out] of the dtype of its y -> [R, in] of the same. Sums in f32. In pieces
// (model/ops/pieces.h). On the CPU f32 weights and bf16 ones in panels are multiplied as they lie, a row's result does
// not depend on the rows beside it; others are LibTorch's matmul, quantised ones unpacked for it part by part.
//
// Errors   thrown by LibTorch: call under Guarded.
at::Tensor LinearBackward(const at::Tensor& g, const LinearWeight& weight);

}  // namespace lorad
