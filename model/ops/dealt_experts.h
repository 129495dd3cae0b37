#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/ops/expert_weights.h"

namespace lorad {

// Rows dealt to experts where they are computed, so that nobody waits for the host: ExpertRows (model/expert_rows.h) as
// tensors of one device, with room for R k pairs.
struct DealtRows {
  at::Tensor starts;   // [E+1] int32; pairs starts[e]..starts[e+1] are expert e's; from starts[E] on they are nobody's
  at::Tensor rows;     // [R k] int32; the row of each pair, ascending within an expert
  at::Tensor pairs;    // [R, k] int32; the pairs of each row by ascending expert; -1 behind the last
  at::Tensor weights;  // [R, k] f32; of those pairs, 0 behind the last

  // Not written yet.
  static DealtRows Empty(int64_t rows, int64_t k, int64_t experts, at::Device device) {
    const auto ints = at::TensorOptions().dtype(at::kInt).device(device);
    return {at::empty({experts + 1}, ints), at::empty({rows * k}, ints), at::empty({rows, k}, ints),
            at::empty({rows, k}, ints.dtype(at::kFloat))};
  }
  int64_t num_pairs() const { return rows.size(0); }
  int64_t experts() const { return starts.size(0) - 1; }
};

// What GroupByExpert makes of experts [R, k] int32, distinct in a row, below E, negative = no choice, and weights [R,
// k] f32. All contiguous, on one device. Rows of pairs that are nobody's are some of the R. Errors of all:
// InvalidArgument names the argument and its shape; Unimplemented without CUDA.
struct DealToExpertsArgs {
  const at::Tensor& experts;
  const at::Tensor& weights;
  const DealtRows& dealt;
};
absl::Status DealToExperts(const DealToExpertsArgs& args);

// ExpertLinear (expert_linear.h) of rows dealt on the device. x [R, in], y [P, >= columns]: the weights' dtype, or any
// where they are quantised. `rows` [P]: of x, one for each pair, or undefined: pair p reads row p. parts: 2 at most. Of
// pairs that are nobody's y is left as it is. most_rows: of an expert.
struct DealtLinearPart {
  const ExpertWeights& weights;
  int64_t first_column;
};
struct DealtLinearArgs {
  const at::Tensor& x;
  absl::Span<const DealtLinearPart> parts;
  const at::Tensor& starts;
  const at::Tensor& rows;
  int64_t most_rows;
  at::Tensor& y;
};
absl::Status DealtLinear(const DealtLinearArgs& args);

// CombineExperts (expert_linear.h) by pairs [R, k] and weights [R, k] of the device. `rows` [Q] int32, if defined:
// pairs and weights are [Q, k] of these rows of y, distinct but for negative ones, which are nobody's; nothing is
// shared then.
struct CombineDealtArgs {
  const at::Tensor& x;
  const at::Tensor& pairs;
  const at::Tensor& weights;
  const at::Tensor& shared;
  const at::Tensor& shared_logits;
  at::Tensor& y;
  at::Tensor rows = {};
  bool add = false;
};
absl::Status CombineDealt(const CombineDealtArgs& args);

// Whether the experts of so many rows of a step are dealt there and multiplied as fast as any other way: few rows
// always are, many where a library's grouped GEMM for them was found to be right (CheckFastForms). Else the host deals,
// and each expert is a matmul of its own. Never on the CPU.
struct DealsOnDeviceArgs {
  at::Device device;
  at::ScalarType dtype;
  Quantization quantization;
  int64_t rows;
};
bool DealsOnDevice(const DealsOnDeviceArgs& args);

}  // namespace lorad
