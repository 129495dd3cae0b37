#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "model/ops/cpu/bf16.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

// A few hundred numbers a row: not worth a kernel or a second thread.
template <typename T>
void Run(const RouteTopKArgs& args, const T* logits) {
  const int64_t rows = args.logits.size(0), experts = args.logits.size(1), k = args.experts.size(1);
  int32_t* chosen = args.experts.mutable_data_ptr<int32_t>();
  float* weights = args.weights.mutable_data_ptr<float>();
  std::vector<float> p(static_cast<size_t>(experts));
  std::vector<int32_t> order(static_cast<size_t>(experts));
  for (int64_t r = 0; r < rows; ++r, logits += args.logits.stride(0), chosen += k, weights += k) {
    float largest = -std::numeric_limits<float>::infinity(), sum = 0.0f;
    for (int64_t e = 0; e < experts; ++e) largest = std::max(largest, Widen(logits[e]));
    for (int64_t e = 0; e < experts; ++e) sum += p[e] = std::exp(Widen(logits[e]) - largest);
    for (float& v : p) v /= sum;
    for (int64_t e = 0; e < experts; ++e) order[e] = static_cast<int32_t>(e);
    // One NaN logit makes the sum and with it all of p NaN, which would break the order; the row is lost anyway.
    if (!std::isnan(sum)) {
      std::partial_sort(order.begin(), order.begin() + k, order.end(),
                        [&](int32_t a, int32_t b) { return p[a] != p[b] ? p[a] > p[b] : a < b; });
    }
    float chosen_sum = 0.0f;
    for (int64_t j = 0; j < k; ++j) chosen_sum += p[order[j]];
    for (int64_t j = 0; j < k; ++j) {
      chosen[j] = order[j];
      weights[j] = args.renormalise ? p[order[j]] / chosen_sum : p[order[j]];
    }
  }
}

}  // namespace

absl::Status RouteTopK(const RouteTopKArgs& args) {
  const void* logits = args.logits.const_data_ptr();
  if (args.logits.scalar_type() == at::kFloat) {
    Run(args, static_cast<const float*>(logits));
  } else {
    Run(args, static_cast<const uint16_t*>(logits));
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
