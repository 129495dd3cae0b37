#include <algorithm>
#include <cmath>

#include "model/ops/cpu/bf16.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kColumnsTogether = 512;       // sums that stay in L1
constexpr int64_t kElementsPerRange = 1 << 14;  // read by one thread

template <typename T>
void AddScaled(const T* x, float weight, int64_t n, float* sums) {
  for (int64_t i = 0; i < n; ++i) sums[i] += weight * Widen(x[i]);
}

template <typename T>
void Run(const CombineExpertsArgs& args) {
  const int64_t rows = args.rows.empty() ? args.y.size(0) : std::ssize(args.rows), width = args.y.size(1);
  const int64_t k = std::ssize(args.pairs) / rows, x_stride = args.x.stride(0), y_stride = args.y.stride(0);
  const T* x = static_cast<const T*>(args.x.const_data_ptr());
  T* y = static_cast<T*>(args.y.mutable_data_ptr());
  const bool has_shared = args.shared.defined();
  const T* shared = has_shared ? static_cast<const T*>(args.shared.const_data_ptr()) : nullptr;
  const T* logits = has_shared ? static_cast<const T*>(args.shared_logits.const_data_ptr()) : nullptr;
  ParallelFor(rows, std::max<int64_t>(1, kElementsPerRange / ((k + 1) * width)), [&](int64_t row, int64_t end) {
    for (; row < end; ++row) {
      T* const out = y + (args.rows.empty() ? row : args.rows[row]) * y_stride;
      const float gate =
          has_shared ? 1.0f / (1.0f + std::exp(-Widen(logits[row * args.shared_logits.stride(0)]))) : 0.0f;
      for (int64_t c = 0; c < width; c += kColumnsTogether) {
        const int64_t n = std::min(kColumnsTogether, width - c);
        float sums[kColumnsTogether] = {};
        if (args.add) AddScaled(out + c, 1.0f, n, sums);
        for (int64_t j = row * k; j < (row + 1) * k; ++j) {
          if (args.pairs[j] >= 0) AddScaled(x + args.pairs[j] * x_stride + c, args.weights[j], n, sums);
        }
        if (has_shared) AddScaled(shared + row * args.shared.stride(0) + c, gate, n, sums);
        for (int64_t i = 0; i < n; ++i) Put(sums[i], out + c + i);
      }
    }
  });
}

}  // namespace

absl::Status CombineExperts(const CombineExpertsArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  if (args.y.scalar_type() == at::kFloat) {
    Run<float>(args);
  } else {
    Run<uint16_t>(args);
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
