#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "model/config.h"

namespace lorad {

// y = act(gate) * up.   gate_up [R, 2 I], columns gate | up; y [R, I]. act in f32, cast, then the product (as HF).
struct GatedActivationArgs {
  const at::Tensor& gate_up;
  Activation activation;
  at::Tensor& y;
};
absl::Status GatedActivation(const GatedActivationArgs& args);

}  // namespace lorad
