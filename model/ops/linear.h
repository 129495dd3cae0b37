#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

// A base weight in the form its kernel reads: as stored, or packed for the processor at hand.
class LinearWeight final {
 public:
  LinearWeight() = default;
  // weight [out, in] f32 or bf16, contiguous; shares its storage unless it packs.
  static LinearWeight Prepare(at::Tensor weight);
  int64_t in_features() const { return weight_.size(1); }
  int64_t out_features() const { return weight_.size(0); }
  const at::Tensor& weight() const { return weight_; }  // [out, in]
  bool defined() const { return weight_.defined(); }

 private:
  at::Tensor weight_;
};

// y = x W^T, no bias.
//
// x [R, in], y [R, out] (preallocated): the weight's dtype (f32, bf16), one device, contiguous rows. Sums in f32.
// A row's result does not depend on the rows beside it (bf16 on processors with AMX: see
// model/ops/README.md). Errors: InvalidArgument names the argument and its shape; Unimplemented without CUDA.
struct LinearArgs {
  const at::Tensor& x;
  const LinearWeight& weight;
  at::Tensor& y;
};
absl::Status Linear(const LinearArgs& args);

}  // namespace lorad
