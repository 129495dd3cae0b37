#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

// residual: if defined, first x_sum = x + residual (rounded to the dtype), written back to residual; then
//   y[r] = weight * cast(x_sum[r] / sqrt(mean(x_sum[r]^2) + eps)),   computed in f32, cast before the weight as Llama
//   does.
//
// x, y, residual [R, H]; weight [H]; one dtype (f32, bf16). y may be x. Source: HF LlamaRMSNorm.
struct RmsNormArgs {
  const at::Tensor& x;
  const at::Tensor& weight;
  double eps;
  at::Tensor* residual;  // or nullptr
  at::Tensor& y;
};
absl::Status RmsNorm(const RmsNormArgs& args);

}  // namespace lorad
