#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "model/config.h"

namespace lorad {

// y = act(x), each element for itself, in f32 and then cast.   x, y [R, I], one dtype (f32, bf16); y may be x.
// A NaN stays one. The FFN's that have no gate; GatedActivation is for the others.
// Errors: InvalidArgument for shapes and dtypes.   Source: HF ACT2FN.
struct ActivateArgs {
  const at::Tensor& x;
  Activation activation;
  at::Tensor& y;
};
absl::Status Activate(const ActivateArgs& args);

}  // namespace lorad
