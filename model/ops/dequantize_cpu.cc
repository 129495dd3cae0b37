#include <cstddef>
#include <vector>

#include "model/ops/cpu/bf16.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/quantized_panels.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

template <typename T>
void Run(const DequantizeArgs& args, T* w) {
  const Quantization quantization = args.weight.quantization();
  const int64_t out = args.weight.out_features(), in = args.weight.in_features();
  const auto* const panels = static_cast<const std::byte*>(args.weight.weight().const_data_ptr());
  const int64_t panel_bytes = QuantizedPanelBytes(quantization, in);
  ParallelFor(out, kPanelColumns, [&](int64_t r, int64_t end) {
    std::vector<float> row(static_cast<size_t>(in));
    for (; r < end; ++r) {
      const std::byte* const panel = panels + r / kPanelColumns * panel_bytes;
      DequantizePanelColumn(quantization, panel, r % kPanelColumns, in, row.data());
      for (int64_t k = 0; k < in; ++k) Put(row[static_cast<size_t>(k)], w + r * in + k);
    }
  });
}

}  // namespace

absl::Status Dequantize(const DequantizeArgs& args) {
  if (args.w.numel() == 0) return absl::OkStatus();
  if (args.w.scalar_type() == at::kFloat) {
    Run(args, args.w.mutable_data_ptr<float>());
  } else {
    Run(args, static_cast<uint16_t*>(args.w.mutable_data_ptr()));
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
