#include <algorithm>

#include "model/ops/cpu/activation_kernels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kElementsPerRange = 1 << 13;

template <typename T>
void Run(const ActivateArgs& args) {
  const int64_t rows = args.x.size(0), n = args.x.size(1);
  const int64_t x_stride = args.x.stride(0), y_stride = args.y.stride(0);
  const T* x = static_cast<const T*>(args.x.const_data_ptr());
  T* y = static_cast<T*>(args.y.mutable_data_ptr());
  // Pieces of rows, so that a single row is shared too.
  const int64_t piece = std::min<int64_t>(n, kElementsPerRange / 2);
  const int64_t pieces = (n + piece - 1) / piece;
  ParallelFor(rows * pieces, std::max<int64_t>(1, kElementsPerRange / piece), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = i / pieces, first = i % pieces * piece;
      ActivateRow(args.activation, x + r * x_stride + first, std::min(piece, n - first), y + r * y_stride + first);
    }
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
