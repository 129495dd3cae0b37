#pragma once

#include <ATen/core/Tensor.h>

namespace lorad {

class NormLayer final {
 public:
  NormLayer(at::Tensor weight, double eps);  // weight [H]

  // x [R, H] -> [R, H]
  at::Tensor Forward(const at::Tensor& x) const;
  // Adds x to `residual` [R, H] in place, then norms the sum.
  at::Tensor AddAndForward(const at::Tensor& x, at::Tensor& residual) const;

 private:
  at::Tensor weight_;
  double eps_;
};

}  // namespace lorad
