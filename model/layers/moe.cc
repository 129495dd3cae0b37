#include "model/layers/moe.h"

#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include "absl/types/span.h"
#include "model/base/guarded.h"
#include "model/ops/autograd/gathered_rows.h"
#include "model/ops/autograd/row_ops.h"
#include "model/ops/dealt_experts.h"
#include "model/ops/expert_linear.h"
#include "model/ops/gated_activation.h"
#include "model/ops/route_top_k.h"

namespace lorad {
namespace {

// What each row of logits [R, E] chose: experts [R, k] int32 and weights [R, k] f32, beside them.
struct Choices {
  at::Tensor experts, weights;
};
Choices Choose(const at::Tensor& logits, const RoutedFfnConfig& config) {
  const int64_t rows = logits.size(0), k = config.experts_per_token;
  Choices choices = {at::empty({rows, k}, logits.options().dtype(at::kInt)),
                     at::empty({rows, k}, logits.options().dtype(at::kFloat))};
  ThrowIfError(RouteTopK({logits, config.renormalise, choices.experts, choices.weights}));
  return choices;
}

// The choices of all rows, on the host: what comes next is planned there.
ExpertRows Route(const at::Tensor& logits, const RoutedFfnConfig& config) {
  const Choices choices = Choose(logits, config);
  const at::Tensor experts = choices.experts.cpu(), weights = choices.weights.cpu();
  const auto span = [&](const auto* data) { return absl::MakeConstSpan(data, static_cast<size_t>(experts.numel())); };
  return GroupByExpert(span(experts.const_data_ptr<int32_t>()), span(weights.const_data_ptr<float>()), logits.size(0),
                       config.experts);
}

at::Tensor IndexOf(const std::vector<int64_t>& values, const at::Tensor& beside) {
  return at::tensor(values).to(beside.device());
}

// The weights [P] f32 of the pairs, from logits [R, E] that chose them.
at::Tensor PairWeights(const at::Tensor& logits, const ExpertRows& pairs, bool renormalise) {
  const int64_t experts = logits.size(1);
  std::vector<int64_t> elements;  // of p
  for (int64_t e = 0; e < experts; ++e) {
    const auto expert = static_cast<size_t>(e);
    for (int32_t pair = pairs.starts[expert]; pair < pairs.starts[expert + 1]; ++pair) {
      elements.push_back(pairs.rows[static_cast<size_t>(pair)] * experts + e);
    }
  }
  const at::Tensor p = at::softmax(logits.to(at::kFloat), 1);
  const at::Tensor weights = at::index_select(p.flatten(), 0, IndexOf(elements, logits));
  if (!renormalise) return weights;
  const at::Tensor sums = SumRows(weights.unsqueeze(1), pairs.rows, logits.size(0));
  return weights / GatherRows(sums, pairs.rows).squeeze(1);
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
  if (step.kv.arena == nullptr) return ForwardInTraining(x, step);
  const at::Tensor logits = router_.Forward(x, step.seam, step.batch.rows);
  if (gate_up_.DealsOnDevice(x) && step.seam.FinishesDealt(gate_up_.layer(), step.batch.rows)) {
    return ForwardDealt(x, logits, step);
  }
  const ExpertRows pairs = Route(logits, routed_);
  const at::Tensor outputs = Experts(x, pairs, step);
  const SharedExpertLayer::Output shared = Shared(x, step);
  at::Tensor y = at::empty_like(x);
  ThrowIfError(CombineExperts({outputs, pairs.pairs, pairs.weights, shared.rows, shared.logits, y}));
  return y;
}

at::Tensor MoeLayer::ForwardDealt(const at::Tensor& x, const at::Tensor& logits, const StepContext& step) const {
  const Choices choices = Choose(logits, routed_);
  const DealtRows dealt = DealtRows::Empty(x.size(0), routed_.experts_per_token, routed_.experts, x.device());
  ThrowIfError(DealToExperts({choices.experts, choices.weights, dealt}));
  const at::Tensor gate_up = gate_up_.ForwardDealt(x, dealt, dealt.rows, step.seam);
  at::Tensor inner = at::empty({dealt.num_pairs(), routed_.intermediate_size}, x.options());
  ThrowIfError(GatedActivation({gate_up, activation_, inner}));
  const at::Tensor outputs = down_.ForwardDealt(inner, dealt, /*rows=*/at::Tensor(), step.seam);
  const SharedExpertLayer::Output shared = Shared(x, step);
  at::Tensor y = at::empty_like(x);
  ThrowIfError(CombineDealt({outputs, dealt.pairs, dealt.weights, shared.rows, shared.logits, y}));
  return y;
}

SharedExpertLayer::Output MoeLayer::Shared(const at::Tensor& x, const StepContext& step) const {
  return shared_.has_value() ? shared_->Forward(x, step) : SharedExpertLayer::Output();
}

at::Tensor MoeLayer::Experts(const at::Tensor& x, const ExpertRows& pairs, const StepContext& step) const {
  RowSegments rows = SegmentsOfPairs(step.batch.rows, pairs);
  const at::Tensor gate_up = gate_up_.Forward(x, pairs, step.seam, rows);
  at::Tensor inner = at::empty({pairs.num_pairs(), routed_.intermediate_size}, x.options());
  ThrowIfError(GatedActivation({gate_up, activation_, inner}));
  rows.input_rows.clear();  // from here on a pair has a row of its own
  return down_.Forward(inner, pairs, step.seam, rows);
}

at::Tensor MoeLayer::ForwardInTraining(const at::Tensor& x, const StepContext& step) const {
  const at::Tensor logits = router_.Forward(x, step.seam, step.batch.rows);
  const ExpertRows pairs = Route(logits.detach(), routed_);
  RowSegments rows = SegmentsOfPairs(step.batch.rows, pairs);
  const at::Tensor gate_up = gate_up_.ForwardByExpert(x, pairs, step.seam, rows);
  rows.input_rows.clear();  // from here on a pair has a row of its own
  const at::Tensor inner = GatedActivationOf(gate_up, activation_);
  const at::Tensor outputs = down_.ForwardByExpert(inner, pairs, step.seam, rows).to(at::kFloat);
  const at::Tensor weights = PairWeights(logits, pairs, routed_.renormalise).unsqueeze(1);
  at::Tensor y = SumRows(outputs * weights, pairs.rows, x.size(0));
  if (shared_.has_value()) {
    const SharedExpertLayer::Output shared = shared_->Forward(x, step);
    y = y + at::sigmoid(shared.logits.to(at::kFloat)) * shared.rows.to(at::kFloat);
  }
  return y.to(x.scalar_type());
}

}  // namespace lorad
