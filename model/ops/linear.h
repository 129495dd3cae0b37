#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "model/quantization.h"

namespace lorad {

// A base weight in the form its kernel reads: [out, in] as stored, or in panels, as it is (cpu/panel_kernels.h,
// cpu/f32_panels.h) or quantised (cpu/quantized_panels.h).
class LinearWeight final {
 public:
  LinearWeight() = default;
  // weight [out, in] f32 or bf16, contiguous; shares its storage.
  static LinearWeight Prepare(at::Tensor weight);
  // Packs f32, and bf16 where our kernels compute it: nobody else may use the storage, it is overwritten, and what lies
  // behind the weight in it, too, as far as PackedElements reach; where the storage ends before, the panels are a copy.
  // Others as Prepare.
  static LinearWeight Pack(at::Tensor weight);
  static int64_t PackedElements(int64_t out_features, int64_t in_features);  // of its panels at most
  // weight [out, in] f32, on the CPU; copied. What is computed with is W' (model/quantization.h), by f32 or bf16 rows.
  // The panels are the same bytes on a device; there more than 128 bf16 rows multiply W' rounded to bf16.
  static LinearWeight Quantize(const at::Tensor& weight, Quantization quantization);
  static LinearWeight FromStored(at::Tensor stored, int64_t out_features, int64_t in_features,
                                 Quantization quantization = Quantization::kNone);
  int64_t in_features() const { return in_features_; }
  int64_t out_features() const { return out_features_; }
  bool defined() const { return stored_.defined(); }
  bool packed() const { return stored_.defined() && stored_.dim() == 3; }
  Quantization quantization() const { return quantization_; }
  bool quantized() const { return quantization_ != Quantization::kNone; }
  // [out, in], or in panels: f32 [panels, in, 16], bf16 [panels, words, 32], quantised [panels, 1, bytes of a panel]
  const at::Tensor& weight() const { return stored_; }
  // Some of its outputs, sharing its storage; `first` begins a panel (a multiple of 16).
  LinearWeight Outputs(int64_t first, int64_t count) const;
  at::Tensor RowMajor() const;  // [out, in]; a copy if packed; W' in f32 if quantised
  // W' [out, in] of a quantised weight, where it lies; throws StatusException as model/ops/dequantize.h.
  at::Tensor Dequantized(at::ScalarType dtype) const;

 private:
  at::Tensor stored_;
  int64_t out_features_ = 0;
  int64_t in_features_ = 0;
  Quantization quantization_ = Quantization::kNone;
};

// y = x W^T, no bias.
//
// x [R, in], y [R, out] (preallocated): the weight's dtype (f32, bf16; either where it is quantised), one device,
// contiguous rows. Sums in f32. A row's result does not depend on the rows beside it (bf16 on processors with AMX, and
// CUDA: see model/ops/README.md, model/ops/cuda/README.md).
// Errors: InvalidArgument names the argument and its shape;
// Unimplemented without CUDA.
struct LinearArgs {
  const at::Tensor& x;
  const LinearWeight& weight;
  at::Tensor& y;
};
absl::Status Linear(const LinearArgs& args);

}  // namespace lorad
