#include "model/ops/cpu/activation_kernels.h"
#include "model/ops/row_loops.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

template <typename T>
void Run(const ActivateArgs& args) {
  const int64_t x_stride = args.x.stride(0), y_stride = args.y.stride(0);
  const T* x = static_cast<const T*>(args.x.const_data_ptr());
  T* y = static_cast<T*>(args.y.mutable_data_ptr());
  ForEachPieceOfRows(args.x.size(0), args.x.size(1), [&](int64_t r, int64_t first, int64_t count) {
    ActivateRow(args.activation, x + r * x_stride + first, count, y + r * y_stride + first);
  });
}

}  // namespace

absl::Status Activate(const ActivateArgs& args) {
  if (args.x.numel() == 0) return absl::OkStatus();
  if (args.x.scalar_type() == at::kFloat) {
    Run<float>(args);
  } else {
    Run<uint16_t>(args);
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
