#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

// A base weight in the form its kernel reads: [out, in] as stored, or packed in panels (cpu/panel_kernels.h).
class LinearWeight final {
 public:
  LinearWeight() = default;
  // weight [out, in] f32 or bf16, contiguous; shares its storage.
  static LinearWeight Prepare(at::Tensor weight);
  // Packs bf16 where our kernels compute it: nobody else may use the storage, it is overwritten. Others as Prepare.
  static LinearWeight Pack(at::Tensor weight);
  static LinearWeight FromStored(at::Tensor stored, int64_t out_features, int64_t in_features);
  int64_t in_features() const { return in_features_; }
  int64_t out_features() const { return out_features_; }
  bool defined() const { return stored_.defined(); }
  bool packed() const { return stored_.defined() && stored_.dim() == 3; }
  const at::Tensor& weight() const { return stored_; }  // [out, in], or [panels, words, 32]
  at::Tensor RowMajor() const;                          // [out, in]; a copy if packed

 private:
  at::Tensor stored_;
  int64_t out_features_ = 0;
  int64_t in_features_ = 0;
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
