#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "model/ops/linear.h"

namespace lorad {

// w = W' (model/quantization.h) of a quantised weight.
//
// w [out, in] (preallocated): f32 or bf16, to which W' is rounded, on the weight's device, contiguous.
// Errors: InvalidArgument names the argument and its shape; Unimplemented without CUDA.
struct DequantizeArgs {
  const LinearWeight& weight;
  at::Tensor& w;
};
absl::Status Dequantize(const DequantizeArgs& args);

}  // namespace lorad
