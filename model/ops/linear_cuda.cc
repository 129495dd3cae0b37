#include <algorithm>

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>

#include "model/base/status_macros.h"
#include "model/ops/cpu/quantized_panels.h"
#include "model/ops/cuda/quantized_kernels.h"
#include "model/ops/cuda/quantized_tiles.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda/upload.h"
#include "model/ops/cuda_ops.h"
#include "model/ops/quantized_tiles_cuda.h"

// Matmuls are cuBLAS's, through LibTorch, but for quantised weights' of few rows and of some.
namespace lorad::cuda {
namespace {

// y = x W'^T of many rows: W' in x's type, some columns at a time, so that it takes little memory beside the pool.
template <typename T>
cudaError_t MultiplyDequantized(const at::Tensor& x, const QuantizedColumns& weight, at::Tensor& y) {
  constexpr int64_t kScratchBytes = int64_t{64} << 20, kPanelColumns = cpu::kPanelColumns;
  const int64_t panel_bytes = kPanelColumns * weight.in * int64_t{sizeof(T)};
  const int64_t most = std::max<int64_t>(1, kScratchBytes / panel_bytes) * kPanelColumns;
  const at::Tensor scratch = at::empty({std::min(most, weight.columns), weight.in}, x.options());
  const int64_t column_bytes = cpu::QuantizedPanelBytes(weight.quantization, weight.in) / kPanelColumns;
  for (int64_t first = 0; first < weight.columns; first += most) {
    QuantizedColumns some = weight;
    some.columns = std::min(most, weight.columns - first);
    some.panels += first * column_bytes;
    if (const cudaError_t error = LaunchDequantize(some, static_cast<T*>(scratch.mutable_data_ptr()), StreamOf(x));
        error != cudaSuccess) {
      return error;
    }
    at::Tensor to = y.narrow(1, first, some.columns);
    at::mm_out(to, x, scratch.narrow(0, 0, some.columns).t());
  }
  return cudaSuccess;
}

QuantizedColumns ColumnsOf(const LinearWeight& weight) {
  return {weight.quantization(), weight.in_features(), weight.out_features(), DataOf<uint8_t>(weight.weight())};
}

absl::Status Multiply(std::string_view op, const at::Tensor& x, const LinearWeight& weight, at::Tensor& y) {
  if (y.numel() == 0) return absl::OkStatus();
  if (!weight.quantized()) {
    at::mm_out(y, x, weight.weight().t());
    return absl::OkStatus();
  }
  const QuantizedColumns columns = ColumnsOf(weight);
  const int64_t rows = x.size(0);
  if (x.scalar_type() == at::kBFloat16 && rows >= kLeastTiledRows && rows <= kMostTiledRows &&
      UsesQuantizedTiles(columns.quantization)) {
    return StatusOf(op, MultiplyTiles(x, columns, y));
  }
  return StatusOf(op, ForTypeOf(x, [&](auto of_rows) {
                    using T = decltype(of_rows);
                    if (rows > kFewRows) return MultiplyDequantized<T>(x, columns, y);
                    return LaunchQuantizedDot(columns, rows, RowsOf<T>(x), MutableRowsOf<T>(y), StreamOf(x));
                  }));
}

}  // namespace

void MakeProductsExact() {
  at::Context& context = at::globalContext();
  // By default the parts of a sum that cuBLAS splits, that of few rows over many inputs, are written and added in bf16.
  context.setAllowBF16ReductionCuBLAS(/*allow_reduced_precision=*/false);
  // NVIDIA's containers make TF32 the default, by TORCH_ALLOW_TF32_CUBLAS_OVERRIDE.
  context.setFloat32MatmulPrecision("highest");
}

absl::Status Linear(const LinearArgs& args) { return Multiply("Linear", args.x, args.weight, args.y); }

absl::Status Dequantize(const DequantizeArgs& args) {
  if (args.w.numel() == 0) return absl::OkStatus();
  return StatusOf("Dequantize", ForTypeOf(args.w, [&](auto of_rows) {
                    return LaunchDequantize(ColumnsOf(args.weight), MutableRowsOf<decltype(of_rows)>(args.w).data,
                                            StreamOf(args.w));
                  }));
}

absl::Status ExpertLinear(const ExpertLinearArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  at::Tensor x = args.x;
  if (!args.rows.empty()) {
    Upload upload;
    const int64_t at = upload.Add(args.rows);
    upload.Send(args.x);
    x = at::index_select(args.x, 0, upload.Ints(at, std::ssize(args.rows)));
  }
  for (size_t e = 0; e + 1 < args.starts.size(); ++e) {
    const int64_t first = args.starts[e], count = args.starts[e + 1] - first;
    if (count == 0) continue;
    for (const ExpertLinearPart& part : args.parts) {
      const LinearWeight& weight = part.weights[e];
      at::Tensor y = args.y.narrow(0, first, count).narrow(1, part.first_column, weight.out_features());
      RETURN_IF_ERROR(Multiply("ExpertLinear", x.narrow(0, first, count), weight, y));
    }
  }
  return absl::OkStatus();
}

}  // namespace lorad::cuda
