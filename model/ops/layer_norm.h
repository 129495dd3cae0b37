#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

// residual: if not null, first x_sum = x + residual (rounded to the dtype), written back to residual; then
//   y[r] = (x_sum[r] - mean(x_sum[r])) / sqrt(var(x_sum[r]) + eps) * weight + bias,   in f32, rounded once.
// var divides by H.
//
// x, y, residual [R, H]; weight, bias [H] or undefined (1 and 0); one dtype (f32, bf16). y may be x or residual.
// Errors: InvalidArgument names the argument and its shape.   Source: torch.nn.LayerNorm.
struct LayerNormArgs {
  const at::Tensor& x;
  const at::Tensor& weight;
  const at::Tensor& bias;
  double eps;
  at::Tensor* residual;  // or nullptr
  at::Tensor& y;
};
absl::Status LayerNorm(const LayerNormArgs& args);

}  // namespace lorad
