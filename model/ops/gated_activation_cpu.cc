#include "model/ops/cpu/activation_kernels.h"
#include "model/ops/row_loops.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

template <typename T>
void Run(const GatedActivationArgs& args) {
  const int64_t n = args.y.size(1);
  const int64_t gate_stride = args.gate_up.stride(0), y_stride = args.y.stride(0);
  const T* gate = static_cast<const T*>(args.gate_up.const_data_ptr());
  T* y = static_cast<T*>(args.y.mutable_data_ptr());
  ForEachPieceOfRows(args.y.size(0), n, [&](int64_t r, int64_t first, int64_t count) {
    const T* g = gate + r * gate_stride + first;
    ActivateMulRow(args.activation, g, g + n, count, y + r * y_stride + first);
  });
}

}  // namespace

absl::Status GatedActivation(const GatedActivationArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  if (args.y.scalar_type() == at::kFloat) {
    Run<float>(args);
  } else {
    Run<uint16_t>(args);
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
