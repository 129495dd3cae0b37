#include "model/ops/linear.h"

#include <algorithm>
#include <utility>

#include <ATen/ops/empty.h>

#include "model/base/check.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu/f32_panels.h"
#include "model/ops/cpu/panel_kernels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/quantized_panels.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"
#include "model/ops/dequantize.h"

namespace lorad {
namespace {

// weight [out, in] -> its panels
at::Tensor Bf16Panels(const at::Tensor& weight) {
  const int64_t out = weight.size(0), in = weight.size(1);
  at::Tensor panels = at::empty({cpu::Panels(out), cpu::PanelWords(in), 2 * cpu::kPanelColumns}, weight.options());
  cpu::PackPanels(static_cast<const uint16_t*>(weight.const_data_ptr()), out, in,
                  static_cast<uint16_t*>(panels.mutable_data_ptr()));
  return panels;
}

at::Tensor F32Panels(const at::Tensor& weight) {
  const int64_t out = weight.size(0), in = weight.size(1);
  at::Tensor panels = at::empty({cpu::Panels(out), in, cpu::kPanelColumns}, weight.options());
  const float* const rows = weight.const_data_ptr<float>();
  float* const to = panels.mutable_data_ptr<float>();
  cpu::ParallelFor(cpu::Panels(out), 1, [&](int64_t panel, int64_t end) {
    const int64_t first = panel * cpu::kPanelColumns;
    cpu::PackF32Panels(rows + first * in, in, std::min(end * cpu::kPanelColumns, out) - first, in,
                       to + panel * cpu::F32PanelElements(in));
  });
  return panels;
}

}  // namespace

LinearWeight LinearWeight::Prepare(at::Tensor weight) {
  const bool is_matrix = weight.defined() && weight.dim() == 2;
  const int64_t out = is_matrix ? weight.size(0) : 0, in = is_matrix ? weight.size(1) : 0;
  return FromStored(std::move(weight), out, in);
}

LinearWeight LinearWeight::Pack(at::Tensor weight) {
  const bool is_bf16 = weight.scalar_type() == at::kBFloat16 && !cpu::HasOneDnnKernels();
  if (!weight.is_cpu() || (weight.scalar_type() != at::kFloat && !is_bf16)) return Prepare(std::move(weight));
  const int64_t out = weight.size(0), in = weight.size(1);
  at::Tensor panels = is_bf16 ? Bf16Panels(weight) : F32Panels(weight);
  // Into the weight's own memory, which lies in huge pages, if they fit: what fills no panel wants room behind it.
  const auto first_byte = static_cast<size_t>(weight.storage_offset() * weight.element_size());
  if (weight.storage().nbytes() >= first_byte + panels.nbytes()) {
    at::Tensor own = at::empty({0}, weight.options());
    own.set_(weight.storage(), weight.storage_offset(), panels.sizes());
    panels = own.copy_(panels);
  }
  return FromStored(std::move(panels), out, in);
}

int64_t LinearWeight::PackedElements(int64_t out_features, int64_t in_features) {
  return cpu::Panels(out_features) * cpu::PanelElements(in_features);
}

LinearWeight LinearWeight::Quantize(const at::Tensor& weight, Quantization quantization) {
  LORAD_CHECK(weight.is_cpu() && weight.scalar_type() == at::kFloat && weight.is_contiguous());
  const int64_t out = weight.size(0), in = weight.size(1), panels = cpu::Panels(out);
  const int64_t panel_bytes = cpu::QuantizedPanelBytes(quantization, in);
  at::Tensor stored = at::empty({panels, 1, panel_bytes}, at::kByte);
  const auto* const rows = weight.const_data_ptr<float>();
  auto* const blocks = static_cast<std::byte*>(stored.mutable_data_ptr());
  cpu::ParallelFor(panels, 1, [&](int64_t panel, int64_t end) {
    for (; panel < end; ++panel) {
      const int64_t first = panel * cpu::kPanelColumns;
      cpu::QuantizePanel(quantization, rows + first * in, std::min(cpu::kPanelColumns, out - first), in,
                         blocks + panel * panel_bytes);
    }
  });
  return FromStored(std::move(stored), out, in, quantization);
}

LinearWeight LinearWeight::FromStored(at::Tensor stored, int64_t out_features, int64_t in_features,
                                      Quantization quantization) {
  LinearWeight weight;
  weight.stored_ = std::move(stored);
  weight.out_features_ = out_features;
  weight.in_features_ = in_features;
  weight.quantization_ = quantization;
  return weight;
}

LinearWeight LinearWeight::Outputs(int64_t first, int64_t count) const {
  if (!packed()) return FromStored(stored_.narrow(0, first, count), count, in_features_);
  LORAD_CHECK_EQ(first % cpu::kPanelColumns, 0);
  return FromStored(stored_.narrow(0, first / cpu::kPanelColumns, cpu::Panels(count)), count, in_features_,
                    quantization_);
}

at::Tensor LinearWeight::RowMajor() const {
  if (!packed()) return stored_;
  if (quantized()) return Dequantized(at::kFloat);
  at::Tensor matrix = at::empty({out_features_, in_features_}, stored_.options());
  const void* const panels = stored_.const_data_ptr();
  void* const rows = matrix.mutable_data_ptr();
  const bool is_f32 = stored_.scalar_type() == at::kFloat;
  cpu::ParallelFor(out_features_, cpu::kPanelColumns, [&](int64_t r, int64_t end) {
    for (; r < end; ++r) {
      if (is_f32) {
        cpu::UnpackF32PanelColumn(static_cast<const float*>(panels), r, in_features_,
                                  static_cast<float*>(rows) + r * in_features_);
      } else {
        cpu::UnpackPanelColumn(static_cast<const uint16_t*>(panels), r, in_features_,
                               static_cast<uint16_t*>(rows) + r * in_features_);
      }
    }
  });
  return matrix;
}

at::Tensor LinearWeight::Dequantized(at::ScalarType dtype) const {
  at::Tensor matrix = at::empty({out_features_, in_features_}, stored_.options().dtype(dtype));
  ThrowIfError(Dequantize({*this, matrix}));
  return matrix;
}

absl::Status Linear(const LinearArgs& args) {
  const ArgCheck check("Linear");
  const at::Tensor& w = args.weight.weight();
  RETURN_IF_ERROR(args.weight.quantized() ? check.Floating("x", args.x) : check.Floating("weight", w));
  const at::ScalarType dtype = args.weight.quantized() ? args.x.scalar_type() : w.scalar_type();
  if (!args.weight.packed()) {
    RETURN_IF_ERROR(check.Contiguous("weight", w, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  }
  RETURN_IF_ERROR(check.Tensor("x", args.x, dtype, {ArgCheck::kAny, args.weight.in_features()}));
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {args.x.size(0), args.weight.out_features()}));
  RETURN_IF_ERROR(check.SameDevice(w, "x", args.x));
  RETURN_IF_ERROR(check.SameDevice(w, "y", args.y));
  return Dispatch("Linear", w, &cpu::Linear, InstalledCudaOps().linear, args);
}

}  // namespace lorad
