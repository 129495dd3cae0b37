#include <algorithm>

#include "model/ops/cpu/activation_kernels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kElementsPerRange = 1 << 13;

template <typename T>
void Run(const GatedActivationArgs& args) {
  const int64_t rows = args.y.size(0), n = args.y.size(1);
  const int64_t gate_stride = args.gate_up.stride(0), y_stride = args.y.stride(0);
  const T* gate = static_cast<const T*>(args.gate_up.const_data_ptr());
  T* y = static_cast<T*>(args.y.mutable_data_ptr());
  // Pieces of rows, so that a single row is shared too.
  const int64_t piece = std::min<int64_t>(n, kElementsPerRange / 2);
  const int64_t pieces = (n + piece - 1) / piece;
  ParallelFor(rows * pieces, std::max<int64_t>(1, kElementsPerRange / piece), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = i / pieces, first = i % pieces * piece;
      const T* g = gate + r * gate_stride + first;
      ActivateMulRow(args.activation, g, g + n, std::min(piece, n - first), y + r * y_stride + first);
    }
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
