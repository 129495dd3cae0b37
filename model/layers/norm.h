#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "model/adapter_seam.h"
#include "model/config.h"
#include "model/weights.h"

namespace lorad {

// A norm's weight in the form that is multiplied by: as a checkpoint stores it, or 1 + that in fp32, which is not
// rounded to the model's dtype (as HF's Gemma). Undefined stays undefined.
at::Tensor NormWeightAsApplied(NormKind kind, at::Tensor stored);

// The norm that the model has everywhere: RMS or layer norm. `rows` say which adapters may replace its weights.
class NormLayer final {
 public:
  // The two tensors as far as the architecture has them: layer norms alone may lack a weight or have a bias.
  static NormLayer Load(const ModelConfig& config, Site site, WeightName weight, std::optional<WeightName> bias,
                        int layer, WeightLoader& weights);

  // x [R, H] -> [R, H]
  at::Tensor Forward(const at::Tensor& x, AdapterSeam& seam, const RowSegments& rows) const;
  // Adds x to `residual` [R, H], then norms the sum: in place, unless a gradient is wanted.
  at::Tensor AddAndForward(const at::Tensor& x, at::Tensor& residual, AdapterSeam& seam, const RowSegments& rows) const;
  // residual = norm(residual + x)
  void AddInto(const at::Tensor& x, at::Tensor& residual, AdapterSeam& seam, const RowSegments& rows) const;

 private:
  NormLayer(const ModelConfig& config, Site site, int layer, at::Tensor weight, at::Tensor bias);
  // As applied to rows that have their own, of which one may be the base's.
  at::Tensor WeightOf(const NormOverride::Rows& own) const;
  at::Tensor BiasOf(const NormOverride::Rows& own) const;
  // The same values, and gradients of x and of what stands in for weight and bias can be followed.
  at::Tensor ForwardRecorded(const at::Tensor& x, const NormOverride* replaced) const;
  void Run(const at::Tensor& x, at::Tensor* residual, at::Tensor& y, const NormOverride* replaced) const;
  void RunWith(const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& x, at::Tensor* residual,
               at::Tensor& y) const;

  NormKind kind_;
  double eps_;
  Site site_;
  int layer_;
  at::Tensor weight_;
  at::Tensor bias_;
};

}  // namespace lorad
