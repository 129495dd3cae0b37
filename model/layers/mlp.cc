#include "model/layers/mlp.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>

#include "model/base/guarded.h"
#include "model/ops/autograd/row_ops.h"
#include "model/ops/expert_linear.h"

namespace lorad {

namespace {

constexpr float kRoundingOfWeights = 1e-5f;  // in a sum that is one

LinearLayer LoadUp(const ModelConfig& config, int layer, WeightLoader& weights) {
  const int64_t width = config.intermediate_size;
  if (!config.gated_ffn) {
    return LinearLayer(weights.LoadMatrix({WeightName::kUpProj}, layer), weights.LoadIfAny(WeightName::kUpBias, layer),
                       {layer, -1, {{Site::kUpProj, 0, width}}});
  }
  if (config.fused_projections) {
    return LinearLayer(weights.LoadMatrix({WeightName::kGateUpProj}, layer), at::Tensor(),
                       {layer, -1, {{Site::kGateUpProj, 0, 2 * width}}});
  }
  return LinearLayer(weights.LoadMatrix({WeightName::kGateProj, WeightName::kUpProj}, layer),
                     weights.LoadStacked({WeightName::kGateBias, WeightName::kUpBias}, layer),
                     {layer, -1, {{Site::kGateProj, 0, width}, {Site::kUpProj, width, width}}});
}

at::Tensor RowsAt(const at::Tensor& x, const std::vector<int32_t>& rows) {
  at::Tensor index = at::empty({std::ssize(rows)}, x.options().dtype(at::kInt));
  std::copy(rows.begin(), rows.end(), index.mutable_data_ptr<int32_t>());
  return at::index_select(x, 0, index);
}

}  // namespace

MlpLayer::MlpLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : layer_(layer),
      intermediate_size_(config.intermediate_size),
      activation_(config.activation),
      gated_(config.gated_ffn),
      up_(LoadUp(config, layer, weights)),
      down_(weights.LoadMatrix({WeightName::kDownProj}, layer), weights.LoadIfAny(WeightName::kDownBias, layer),
            {layer, -1, {{Site::kDownProj, 0, config.hidden_size}}}) {}

at::Tensor MlpLayer::Activated(const at::Tensor& up, Activation activation) const {
  return gated_ ? GatedActivationOf(up, activation) : ActivationOf(up, activation);
}

at::Tensor MlpLayer::ActivatedPairs(at::Tensor up, const RoutedRows& routed) const {
  const auto is_ours = [&](const RoutedRows::OtherActivation& other) { return other.activation == activation_; };
  if (std::all_of(routed.activations.begin(), routed.activations.end(), is_ours)) {
    return Activated(up, activation_);
  }
  at::Tensor inner = at::empty({up.size(0), intermediate_size_}, up.options());
  const auto put = [&](int64_t first, int64_t end, Activation activation) {
    if (first < end) inner.slice(0, first, end).copy_(Activated(up.slice(0, first, end), activation));
  };
  int64_t done = 0;
  for (const RoutedRows::OtherActivation& other : routed.activations) {
    put(done, other.first_pair, activation_);
    put(other.first_pair, other.end_pair, other.activation);
    done = other.end_pair;
  }
  put(done, up.size(0), activation_);
  return inner;
}

void MlpLayer::AddDown(const at::Tensor& pairs, const RoutedRows& routed, AdapterSeam& seam, at::Tensor& y) const {
  RowSegments rows = routed.pairs;
  rows.input_rows.clear();  // a pair has a row of its own
  const bool add = !routed.scales_down;
  const at::Tensor made = add ? down_.Deltas(pairs, seam, rows) : down_.Forward(pairs, seam, rows);
  ThrowIfError(
      CombineExperts({made, routed.row_pairs, routed.weights, at::Tensor(), at::Tensor(), y, routed.rows, add}));
  if (!add || !down_.bias().defined()) return;
  const size_t choices = routed.weights.size() / routed.rows.size();
  for (size_t i = 0; i < routed.rows.size(); ++i) {
    const auto first = routed.weights.begin() + static_cast<int64_t>(i * choices);
    const float sum = std::accumulate(first, first + static_cast<int64_t>(choices), 0.0f);
    if (std::abs(sum - 1.0f) > kRoundingOfWeights) y.select(0, routed.rows[i]).add_(down_.bias(), sum - 1.0f);
  }
}

at::Tensor MlpLayer::Forward(const at::Tensor& x, const StepContext& step) const {
  at::Tensor up = up_.Base(x);
  const RowRouting routing = step.seam.RouteFfn(layer_, x, step.batch.rows);
  if (routing.routed == nullptr) {
    return down_.Forward(Activated(up_.Finish(x, std::move(up), step.seam, *routing.rows), activation_), step.seam,
                         *routing.rows);
  }
  const RoutedRows& routed = *routing.routed;
  at::Tensor pairs = RowsAt(up, routed.pairs.input_rows);
  at::Tensor inner = Activated(up_.Finish(x, std::move(up), step.seam, *routing.rows), activation_);
  pairs = ActivatedPairs(up_.Finish(x, std::move(pairs), step.seam, routed.pairs), routed);
  ThrowIfError(
      CombineExperts({pairs, routed.row_pairs, routed.weights, at::Tensor(), at::Tensor(), inner, routed.rows}));
  at::Tensor y = down_.Forward(inner, step.seam, *routing.rows);
  AddDown(pairs, routed, step.seam, y);
  return y;
}

}  // namespace lorad
