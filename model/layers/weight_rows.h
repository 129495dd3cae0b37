#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/ops/linear.h"

namespace lorad {

// Rows [n, in] of a weight of the base, where it lies: of a matrix, or of one that is quantised.
class WeightRows final {
 public:
  WeightRows() = default;  // none
  WeightRows(LinearWeight weight, int64_t first_row);

  bool defined() const { return weight_.defined(); }
  bool quantized() const { return weight_.quantized(); }
  // [count, in]: a view, or W' in f32 of what is quantised; throws StatusException as LinearWeight::Dequantized.
  at::Tensor Rows(int64_t first, int64_t count) const;

 private:
  LinearWeight weight_;
  int64_t first_row_ = 0;
};

}  // namespace lorad
