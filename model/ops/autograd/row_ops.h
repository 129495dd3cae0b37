#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/ops/linear.h"

namespace lorad {

// The operators of a forward as functions of their input rows, which training can follow: the kernels of serving
// compute the values, and when a gradient of x is wanted their backward is recorded. Weights are frozen, but for those
// of norms, which may want a gradient too. Backward sums in f32 and casts once.
//
// Shapes, dtypes, errors  as the operator's own header says; errors are thrown (StatusException).
// Threads                 one at a time, as a forward.

// A gradient is recorded for what is computed from x.
bool NeedsGradient(const at::Tensor& x);

// dx = g W
at::Tensor LinearOf(const at::Tensor& x, const LinearWeight& weight);

// n = x / rms: dx = (g w - n mean(g w n)) / rms, dw = sum over rows of g n
at::Tensor RmsNormOf(const at::Tensor& x, const at::Tensor& weight, double eps);

// n = (x - mean) / deviation: dx = (g w - mean(g w) - n mean(g w n)) / deviation, dw as before, db = sum over rows of g
at::Tensor LayerNormOf(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps);

at::Tensor ActivationOf(const at::Tensor& x, Activation activation);
// gate_up [R, 2 I] -> [R, I]
at::Tensor GatedActivationOf(const at::Tensor& gate_up, Activation activation);

}  // namespace lorad
