#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

// residual: if defined, first x_sum = x + residual (rounded to the dtype), written back to residual; then
//   y[r] = weight * cast(x_sum[r] / sqrt(mean(x_sum[r]^2) + eps)),   computed in f32.
//
// x, y, residual [R, H] of one dtype (f32, bf16); y may be x. weight [H]: of that dtype, and the cast comes before it
// (HF LlamaRMSNorm); or f32 beside bf16 rows, and only the product is cast (HF GemmaRMSNorm, whose 1 + w is that
// weight).
struct RmsNormArgs {
  const at::Tensor& x;
  const at::Tensor& weight;
  double eps;
  at::Tensor* residual;  // or nullptr
  at::Tensor& y;
};
absl::Status RmsNorm(const RmsNormArgs& args);

}  // namespace lorad
