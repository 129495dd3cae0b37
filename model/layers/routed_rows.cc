#include "model/layers/routed_rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_copy.h>
#include <ATen/ops/index_select.h>

#include "model/base/guarded.h"
#include "model/ops/autograd/gathered_rows.h"
#include "model/ops/dealt_experts.h"
#include "model/ops/embedding.h"
#include "model/ops/expert_linear.h"

namespace lorad {
namespace {

constexpr float kRoundingOfWeights = 1e-5f;  // in a sum that is one

// [n] beside the tensor whose rows they are
at::Tensor IndexOf(const std::vector<int32_t>& rows, const at::Tensor& beside) {
  at::Tensor index = at::empty({std::ssize(rows)}, at::TensorOptions().dtype(at::kLong));
  std::copy(rows.begin(), rows.end(), index.mutable_data_ptr<int64_t>());
  return index.to(beside.device());
}

// values [P, n] of a wide type -> their sums by routed row, [Q, n]
at::Tensor SumsByRow(const at::Tensor& values, const RoutedRows& routed) {
  const size_t choices = routed.row_pairs.size() / routed.rows.size();
  std::vector<int32_t> row_of_pair(static_cast<size_t>(routed.pairs.rows()));
  for (size_t i = 0; i < routed.row_pairs.size(); ++i) {
    const int32_t pair = routed.row_pairs[i];
    if (pair >= 0) row_of_pair[static_cast<size_t>(pair)] = static_cast<int32_t>(i / choices);
  }
  return SumRows(values, row_of_pair, std::ssize(routed.rows));
}

// y with these rows [Q, n] added or instead of its own
at::Tensor WithRows(const at::Tensor& y, const RoutedRows& routed, bool add, at::Tensor rows) {
  const at::Tensor index = IndexOf(routed.rows, y);
  if (add) rows = rows + at::index_select(y, 0, index).to(rows.scalar_type());
  return at::index_copy(y, 0, index, rows.to(y.scalar_type()));
}

}  // namespace

at::Tensor RowsOfPairs(const at::Tensor& x, const RoutedRows& routed) {
  if (!routed.on_device.has_value()) return GatherRows(x, routed.pairs.input_rows);
  const at::Tensor& rows = routed.on_device->input_rows;
  at::Tensor pairs = at::empty({rows.size(0), x.size(1)}, x.options());
  ThrowIfError(Embedding({rows, LinearWeight::Prepare(x), pairs}));  // x as a table
  return pairs;
}

at::Tensor CombinePairs(const at::Tensor& made, const RoutedRows& routed, bool add, at::Tensor y) {
  const at::Tensor& weights = routed.pair_weights;
  if (weights.defined()) {
    const at::Tensor weighted = made.to(weights.scalar_type()) * weights.unsqueeze(1);
    return WithRows(y, routed, add, SumsByRow(weighted, routed));
  }
  if (routed.on_device.has_value()) {
    const RoutedRows::OnDevice& on = *routed.on_device;
    ThrowIfError(CombineDealt({made, on.row_pairs, on.weights, at::Tensor(), at::Tensor(), y, on.rows, add}));
    return y;
  }
  ThrowIfError(
      CombineExperts({made, routed.row_pairs, routed.weights, at::Tensor(), at::Tensor(), y, routed.rows, add}));
  return y;
}

at::Tensor ScaleBias(const at::Tensor& bias, const RoutedRows& routed, at::Tensor y) {
  const at::Tensor& weights = routed.pair_weights;
  if (weights.defined()) {
    const at::Tensor sums = SumsByRow(weights.unsqueeze(1), routed);  // [Q, 1]
    return WithRows(y, routed, /*add=*/true, (sums - 1.0) * bias.to(weights.scalar_type()));
  }
  if (routed.on_device.has_value()) return y;
  const size_t choices = routed.weights.size() / routed.rows.size();
  for (size_t i = 0; i < routed.rows.size(); ++i) {
    const auto first = routed.weights.begin() + static_cast<int64_t>(i * choices);
    const float sum = std::accumulate(first, first + static_cast<int64_t>(choices), 0.0f);
    if (std::abs(sum - 1.0f) > kRoundingOfWeights) y.select(0, routed.rows[i]).add_(bias, sum - 1.0f);
  }
  return y;
}

}  // namespace lorad
