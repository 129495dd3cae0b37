#include "model/ops/autograd/gathered_rows.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>

#include "model/ops/autograd/row_ops.h"

namespace lorad {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Of the host, as it is for what is planned there.
at::Tensor ListOf(absl::Span<const int32_t> rows) {
  at::Tensor list = at::empty({std::ssize(rows)}, at::kInt);
  std::copy(rows.begin(), rows.end(), list.mutable_data_ptr<int32_t>());
  return list;
}
absl::Span<const int32_t> SpanOf(const at::Tensor& list) {
  return {list.const_data_ptr<int32_t>(), static_cast<size_t>(list.numel())};
}

// Where each of `count` rows stands in `rows`, in order: [count, most] on the host, rows.size() behind a row's last.
at::Tensor PlacesOf(absl::Span<const int32_t> rows, int64_t count) {
  std::vector<int32_t> found(static_cast<size_t>(count), 0);
  for (const int32_t row : rows) ++found[static_cast<size_t>(row)];
  const int64_t most = found.empty() ? 0 : *std::max_element(found.begin(), found.end());
  at::Tensor places = at::full({count, most}, std::ssize(rows), at::kInt);
  auto* const place = places.mutable_data_ptr<int32_t>();
  std::fill(found.begin(), found.end(), 0);
  for (size_t p = 0; p < rows.size(); ++p) {
    const auto row = static_cast<size_t>(rows[p]);
    place[static_cast<int64_t>(row) * most + found[row]++] = static_cast<int32_t>(p);
  }
  return places;
}

at::Tensor Gathered(const at::Tensor& x, const at::Tensor& list) { return at::index_select(x, 0, list.to(x.device())); }

at::Tensor Summed(const at::Tensor& values, const at::Tensor& list, int64_t count) {
  const at::Tensor places = PlacesOf(SpanOf(list), count);
  const int64_t width = values.size(1), most = places.size(1);
  const bool all_full = most * count == list.numel();
  const at::Tensor padded = all_full ? values : at::cat({values, at::zeros({1, width}, values.options())}, 0);
  const at::Tensor by_row = Gathered(padded, places.flatten()).view({count, most, width});
  const at::ScalarType wide = values.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return by_row.sum(at::IntArrayRef{1}, /*keepdim=*/false, wide).to(values.scalar_type());
}

struct GatherFunction : Function<GatherFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& list) {
    context->saved_data["list"] = list;
    context->saved_data["count"] = x.size(0);
    return Gathered(x, list);
  }
  static variable_list backward(AutogradContext* context, const variable_list& g) {
    return {Summed(g[0], context->saved_data["list"].toTensor(), context->saved_data["count"].toInt()), at::Tensor()};
  }
};

struct SumFunction : Function<SumFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& values, const at::Tensor& list, int64_t count) {
    context->saved_data["list"] = list;
    return Summed(values, list, count);
  }
  static variable_list backward(AutogradContext* context, const variable_list& g) {
    return {Gathered(g[0], context->saved_data["list"].toTensor()), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor GatherRows(const at::Tensor& x, absl::Span<const int32_t> rows) {
  return NeedsGradient(x) ? GatherFunction::apply(x, ListOf(rows)) : Gathered(x, ListOf(rows));
}

at::Tensor SumRows(const at::Tensor& values, absl::Span<const int32_t> rows, int64_t count) {
  return NeedsGradient(values) ? SumFunction::apply(values, ListOf(rows), count) : Summed(values, ListOf(rows), count);
}

}  // namespace lorad
