#include "adapters/routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "model/base/check.h"

namespace lorad {
namespace {

void Softmax(absl::Span<const float> logits, std::vector<float>* p) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  p->resize(logits.size());
  std::transform(logits.begin(), logits.end(), p->begin(), [&](float logit) { return std::exp(logit - largest); });
  const float sum = std::accumulate(p->begin(), p->end(), 0.0f);
  for (float& value : *p) value /= sum;
}

// How many of the sorted weights are taken: the first that crosses top_p is the last; all, if none does.
size_t TakenByTopP(const std::vector<float>& weights, float top_p) {
  float sum = 0.0f;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    if (sum > top_p) return i + 1;
  }
  return weights.size();
}

}  // namespace

void ChooseExperts(const RoutingRule& rule, absl::Span<const float> logits, absl::Span<int32_t> chosen,
                   absl::Span<float> weights) {
  static thread_local std::vector<float> p, sorted;
  static thread_local std::vector<int32_t> order;
  Softmax(logits, &p);
  const bool divides = rule.choice == RoutingRule::Choice::kTopP && rule.temperature > 0.0f;
  if (divides) {
    for (float& value : p) value /= rule.temperature;
  }
  order.resize(p.size());
  std::iota(order.begin(), order.end(), 0);
  // NaN, which would break the order, is in all of p or in none; the row is lost anyway.
  if (!std::isnan(p[0])) {
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return p[a] > p[b]; });
  }
  sorted.resize(p.size());
  for (size_t i = 0; i < p.size(); ++i) sorted[i] = p[static_cast<size_t>(order[i])];

  const size_t taken =
      rule.choice == RoutingRule::Choice::kTopP ? TakenByTopP(sorted, rule.top_p) : static_cast<size_t>(rule.top_k);
  LORAD_CHECK_LE(taken, p.size());
  const float sum = rule.renormalise ? std::accumulate(sorted.begin(), sorted.begin() + taken, 0.0f) : 1.0f;
  for (size_t i = 0; i < chosen.size(); ++i) {
    chosen[i] = i < taken ? order[i] : -1;
    weights[i] = i < taken ? sorted[i] / sum : 0.0f;
  }
}

}  // namespace lorad
