#include "model/ops/cpu/row_kernels.h"
#include "model/ops/row_loops.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

// T of the rows, W of the weight.
template <typename T, typename W>
void Run(const RmsNormArgs& args) {
  const W* weight = static_cast<const W*>(args.weight.const_data_ptr());
  const int64_t n = args.x.size(1);
  const float eps = static_cast<float>(args.eps);
  ForEachNormedRow<T>(args.x, args.residual, args.y,
                      [&](const T* from, T* to) { RmsNormRow(from, weight, n, eps, to); });
}

}  // namespace

absl::Status RmsNorm(const RmsNormArgs& args) {
  if (args.x.numel() == 0) return absl::OkStatus();
  if (args.x.scalar_type() == at::kFloat) {
    Run<float, float>(args);
  } else if (args.weight.scalar_type() == at::kFloat) {
    Run<uint16_t, float>(args);
  } else {
    Run<uint16_t, uint16_t>(args);
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
