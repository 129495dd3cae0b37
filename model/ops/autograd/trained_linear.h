#pragma once

#include <ATen/core/Tensor.h>

namespace lorad {

// y = x W^T [R, out] of a weight W [out, in] that is trained, of x's type: at::linear, but cut in pieces along the
// outputs (model/ops/pieces.h), and so are its gradients. A head has so many outputs that serving would wait for them.
at::Tensor TrainedLinear(const at::Tensor& x, const at::Tensor& weight);

}  // namespace lorad
