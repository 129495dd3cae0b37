#include "adapters/train/adamw.h"

#include <algorithm>
#include <cmath>

#include "model/ops/cpu/parallel.h"

namespace lorad {
namespace {

constexpr int64_t kNumbersPerRange = 1 << 14;  // some 10 us of one thread

}  // namespace

void UpdateAdamW(const AdamWStep& step, const float* gradient, int64_t count, float* weight, float* first,
                 float* second) {
  cpu::ParallelFor(count, kNumbersPerRange, [&](int64_t begin, int64_t end) {
    const AdamWStep s = step;  // in registers: what is written may be anybody's floats
    for (int64_t i = begin; i < end; ++i) {
      const float g = gradient[i] * s.gradient_factor;
      const float m = first[i] + s.new_of_first * (g - first[i]);
      const float v = second[i] * s.beta2 + s.new_of_second * g * g;
      first[i] = m;
      second[i] = v;
      weight[i] = weight[i] * s.decayed - s.step_size * (m / (std::sqrt(v) / s.root + s.epsilon));
    }
  });
}

double SumOfSquares(const float* values, int64_t count) {
  constexpr int64_t kSums = 8;  // that do not wait for one another
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += static_cast<double>(values[i + j]) * values[i + j];
  }
  double sum = 0;
  for (; i < count; ++i) sum += static_cast<double>(values[i]) * values[i];
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace lorad
