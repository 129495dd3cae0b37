#pragma once

#include <cstdint>
#include <map>

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include "model/config.h"
#include "model/forward_batch.h"

namespace lorad {

// [rotary_dim / 2] fp32: the angle of each pair of coordinates per position, for sequences of RopeSwitch's `variant`.
// Source: HF modeling_rope_utils, rope types default, linear, dynamic, yarn, longrope, llama3; computed in fp32 as
// there. dynamic: the angles that HF has for a sequence of (variant + 1) * original_max_positions tokens.
at::Tensor RopeInverseFrequencies(const RopeConfig& config, int64_t variant = 0);

// cos and sin of every position, for all layers. Grown when a longer context comes, so that a model made for millions
// of positions does not pay for them; on a device they begin with as many as most models have.
class RopeTables final {
 public:
  RopeTables(const RopeConfig& config, int64_t variant, int64_t max_positions, const at::TensorOptions& like);

  // Makes the tables hold at least `positions` rows (at most max_positions). True: they have moved.
  bool Reserve(int64_t positions);

  const at::Tensor& cos() const { return cos_; }  // [>= positions, rotary_dim / 2]
  const at::Tensor& sin() const { return sin_; }

 private:
  const int64_t max_positions_;
  const at::TensorOptions options_;  // of the tables
  const double attention_factor_;
  at::Tensor inverse_frequencies_;
  at::Tensor cos_;
  at::Tensor sin_;
};

// What the rows of one step are rotated by, on the model's device.
struct RopeRows {
  at::Tensor cos;   // [N, rotary_dim / 2]
  at::Tensor sin;   // [N, rotary_dim / 2]
  at::Tensor rows;  // [T] int32, each row's line of them
};

// The rope of all layers that share one: a table for each variant that was met.
class Rope final {
 public:
  // `like`: the model's dtype and device.
  Rope(const RopeConfig& config, const RopeSwitch& rope_switch, int64_t max_positions, const at::TensorOptions& like);

  // `batch` is the host's, `on_device` [T] its positions on the model's device. Valid until the next call.
  RopeRows RowsOf(const ForwardBatch& batch, const at::Tensor& on_device);
  // How often a table moved: who keeps its address goes by it.
  int64_t moves() const { return moves_; }

 private:
  const RopeTables& Tables(int64_t variant, int64_t positions);

  const RopeConfig config_;
  const RopeSwitch switch_;
  const int64_t max_positions_;
  const at::TensorOptions options_;
  std::map<int64_t, RopeTables> tables_;  // by variant
  int64_t moves_ = 0;
};

}  // namespace lorad
