#include "model/layers/norm.h"

#include <utility>

#include <ATen/ops/empty_like.h>

#include "model/base/guarded.h"
#include "model/ops/rms_norm.h"

namespace lorad {

NormLayer::NormLayer(at::Tensor weight, double eps) : weight_(std::move(weight)), eps_(eps) {}

at::Tensor NormLayer::Forward(const at::Tensor& x) const {
  at::Tensor y = at::empty_like(x);
  ThrowIfError(RmsNorm({x, weight_, eps_, nullptr, y}));
  return y;
}

at::Tensor NormLayer::AddAndForward(const at::Tensor& x, at::Tensor& residual) const {
  at::Tensor y = at::empty_like(x);
  ThrowIfError(RmsNorm({x, weight_, eps_, &residual, y}));
  return y;
}

}  // namespace lorad
