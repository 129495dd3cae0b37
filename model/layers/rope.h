#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/config.h"

namespace lorad {

// [rotary_dim / 2] fp32: the angle of each pair of coordinates per position.
// Source: HF modeling_rope_utils, rope types default, linear, llama3; computed in fp32 as there.
at::Tensor RopeInverseFrequencies(const RopeConfig& config);

// cos and sin of every position, for all layers. Grown when a longer context comes, so that a model made for millions
// of positions does not pay for them.
class RopeTables final {
 public:
  RopeTables(const RopeConfig& config, int64_t max_positions, at::ScalarType dtype);

  // Makes the tables hold at least `positions` rows (at most max_positions).
  void Reserve(int64_t positions);

  const at::Tensor& cos() const { return cos_; }  // [>= positions, rotary_dim / 2]
  const at::Tensor& sin() const { return sin_; }

 private:
  const int64_t max_positions_;
  const at::ScalarType dtype_;
  at::Tensor inverse_frequencies_;
  at::Tensor cos_;
  at::Tensor sin_;
};

}  // namespace lorad
