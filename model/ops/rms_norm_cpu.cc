#include <algorithm>

#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/row_kernels.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

// T of the rows, W of the weight.
template <typename T, typename W>
void Run(const RmsNormArgs& args) {
  const int64_t rows = args.x.size(0), n = args.x.size(1);
  const int64_t x_stride = args.x.stride(0), y_stride = args.y.stride(0);
  const T* x = static_cast<const T*>(args.x.const_data_ptr());
  const W* weight = static_cast<const W*>(args.weight.const_data_ptr());
  T* y = static_cast<T*>(args.y.mutable_data_ptr());
  T* residual = args.residual == nullptr ? nullptr : static_cast<T*>(args.residual->mutable_data_ptr());
  const int64_t residual_stride = residual == nullptr ? 0 : args.residual->stride(0);
  const float eps = static_cast<float>(args.eps);
  ParallelFor(rows, std::max<int64_t>(1, (1 << 14) / n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* from = x + r * x_stride;
      if (residual != nullptr) {
        T* sum = residual + r * residual_stride;
        AddRow(from, n, sum);
        from = sum;
      }
      RmsNormRow(from, weight, n, eps, y + r * y_stride);
    }
  });
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
