#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/ops/linear.h"

namespace lorad {

// One part of all experts' weights, of one shape and form, and where they lie, for kernels that choose among them.
class ExpertWeights final {
 public:
  // weights [E], one or more. Throws as LibTorch does.
  explicit ExpertWeights(std::vector<LinearWeight> weights);

  const std::vector<LinearWeight>& weights() const { return weights_; }
  int64_t experts() const { return static_cast<int64_t>(weights_.size()); }
  int64_t out_features() const { return weights_.front().out_features(); }
  int64_t in_features() const { return weights_.front().in_features(); }
  Quantization quantization() const { return weights_.front().quantization(); }
  at::ScalarType dtype() const { return weights_.front().weight().scalar_type(); }
  // [E] int64, beside the weights.
  const at::Tensor& addresses() const { return addresses_; }
  // Of the addresses, bytes: a power of two, 256 at most.
  int64_t alignment() const { return alignment_; }

 private:
  std::vector<LinearWeight> weights_;
  at::Tensor addresses_;
  int64_t alignment_ = 0;
};

}  // namespace lorad
