#include "model/ops/expert_weights.h"

#include <algorithm>
#include <utility>

#include <ATen/ops/empty.h>

#include "model/base/check.h"

namespace lorad {
namespace {

constexpr uint64_t kMostAlignment = 256;

bool AreAlike(const LinearWeight& a, const LinearWeight& b) {
  return a.weight().sizes() == b.weight().sizes() && a.weight().scalar_type() == b.weight().scalar_type() &&
         a.out_features() == b.out_features() && a.in_features() == b.in_features() &&
         a.quantization() == b.quantization() && a.weight().device() == b.weight().device();
}

}  // namespace

ExpertWeights::ExpertWeights(std::vector<LinearWeight> weights) : weights_(std::move(weights)) {
  LORAD_CHECK(!weights_.empty());
  const at::Tensor addresses = at::empty({experts()}, at::kLong);
  uint64_t bits = kMostAlignment;
  for (int64_t e = 0; e < experts(); ++e) {
    const LinearWeight& weight = weights_[static_cast<size_t>(e)];
    LORAD_CHECK(AreAlike(weight, weights_.front()) && weight.weight().is_contiguous());
    const auto address = reinterpret_cast<uintptr_t>(weight.weight().const_data_ptr());
    addresses.mutable_data_ptr<int64_t>()[e] = static_cast<int64_t>(address);
    bits |= address;
  }
  alignment_ = static_cast<int64_t>(bits & ~(bits - 1));
  addresses_ = addresses.to(weights_.front().weight().device());
}

}  // namespace lorad
