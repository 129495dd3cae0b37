#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/weights.h"

namespace lorad {

// The weight that the norm called `name` multiplies by: as stored, or 1 + that in fp32, which is not rounded to the
// model's dtype (as HF's Gemma). Undefined when the architecture has no such norm.
at::Tensor LoadNormWeight(const ModelConfig& config, WeightName name, int layer, WeightLoader& weights);

// The norm that the model has everywhere: RMS or layer norm.
class NormLayer final {
 public:
  // weight, bias [H] or undefined: layer norms alone may lack a weight or have a bias.
  NormLayer(NormKind kind, double eps, at::Tensor weight, at::Tensor bias);
  // The two tensors as far as the architecture has them.
  static NormLayer Load(const ModelConfig& config, WeightName weight, std::optional<WeightName> bias, int layer,
                        WeightLoader& weights);

  // x [R, H] -> [R, H]
  at::Tensor Forward(const at::Tensor& x) const;
  // Adds x to `residual` [R, H] in place, then norms the sum.
  at::Tensor AddAndForward(const at::Tensor& x, at::Tensor& residual) const;
  // residual = norm(residual + x)
  void AddInto(const at::Tensor& x, at::Tensor& residual) const;

 private:
  void Run(const at::Tensor& x, at::Tensor* residual, at::Tensor& y) const;

  NormKind kind_;
  double eps_;
  at::Tensor weight_;
  at::Tensor bias_;
};

}  // namespace lorad
