#include "model/ops/cpu/row_kernels.h"
#include "model/ops/row_loops.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

template <typename T>
const T* DataOrNull(const at::Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}

template <typename T>
void Run(const LayerNormArgs& args) {
  const T* weight = DataOrNull<T>(args.weight);
  const T* bias = DataOrNull<T>(args.bias);
  const int64_t n = args.x.size(1);
  const float eps = static_cast<float>(args.eps);
  ForEachNormedRow<T>(args.x, args.residual, args.y,
                      [&](const T* from, T* to) { LayerNormRow(from, weight, bias, n, eps, to); });
}

}  // namespace

absl::Status LayerNorm(const LayerNormArgs& args) {
  if (args.x.numel() == 0) return absl::OkStatus();
  if (args.x.scalar_type() == at::kFloat) {
    Run<float>(args);
  } else {
    Run<uint16_t>(args);
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
