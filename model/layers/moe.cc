#include "model/layers/moe.h"

#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "absl/types/span.h"
#include "model/base/guarded.h"
#include "model/ops/expert_linear.h"
#include "model/ops/gated_activation.h"
#include "model/ops/route_top_k.h"

namespace lorad {
namespace {

// The choices of all rows, on the host: what comes next is planned there.
ExpertRows Route(const at::Tensor& logits, const RoutedFfnConfig& config) {
  const int64_t rows = logits.size(0), k = config.experts_per_token;
  at::Tensor experts = at::empty({rows, k}, logits.options().dtype(at::kInt));
  at::Tensor weights = at::empty({rows, k}, logits.options().dtype(at::kFloat));
  ThrowIfError(RouteTopK({logits, config.renormalise, experts, weights}));
  experts = experts.cpu();
  weights = weights.cpu();
  const auto span = [&](const auto* data) { return absl::MakeConstSpan(data, static_cast<size_t>(rows * k)); };
  return GroupByExpert(span(experts.const_data_ptr<int32_t>()), span(weights.const_data_ptr<float>()), rows,
                       config.experts);
}

}  // namespace

MoeLayer::MoeLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : routed_(config.routed),
      activation_(config.activation),
      router_(weights.Load(WeightName::kRouter, layer), at::Tensor(),
              {layer, -1, {{Site::kRouter, 0, config.routed.experts}}}),
      gate_up_({WeightName::kExpertGate, WeightName::kExpertUp}, Site::kExpertGateUp, layer, config.routed.experts,
               weights),
      down_({WeightName::kExpertDown}, Site::kExpertDown, layer, config.routed.experts, weights) {
  if (config.routed.shared_intermediate_size > 0) shared_.emplace(config, layer, weights);
}

at::Tensor MoeLayer::Forward(const at::Tensor& x, const StepContext& step) const {
  const ExpertRows pairs = Route(router_.Forward(x, step.seam, step.batch.rows), routed_);
  const at::Tensor outputs = Experts(x, pairs, step);
  SharedExpertLayer::Output shared;
  if (shared_.has_value()) shared = shared_->Forward(x, step);
  at::Tensor y = at::empty_like(x);
  ThrowIfError(CombineExperts({outputs, pairs.pairs, pairs.weights, shared.rows, shared.logits, y}));
  return y;
}

at::Tensor MoeLayer::Experts(const at::Tensor& x, const ExpertRows& pairs, const StepContext& step) const {
  RowSegments rows = SegmentsOfPairs(step.batch.rows, pairs);
  const at::Tensor gate_up = gate_up_.Forward(x, pairs, step.seam, rows);
  at::Tensor inner = at::empty({pairs.num_pairs(), routed_.intermediate_size}, x.options());
  ThrowIfError(GatedActivation({gate_up, activation_, inner}));
  rows.input_rows.clear();  // from here on a pair has a row of its own
  return down_.Forward(inner, pairs, step.seam, rows);
}

}  // namespace lorad
