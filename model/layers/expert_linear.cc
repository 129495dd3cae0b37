#include "model/layers/expert_linear.h"

#include <utility>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include "model/base/guarded.h"
#include "model/ops/autograd/gathered_rows.h"
#include "model/ops/autograd/row_ops.h"
#include "model/ops/expert_linear.h"

namespace lorad {

ExpertLinearLayer::ExpertLinearLayer(std::initializer_list<WeightName> parts, Site site, int layer, int64_t experts,
                                     WeightLoader& weights) {
  for (const WeightName part : parts) {
    std::vector<LinearWeight> of_part;
    for (int32_t expert = 0; expert < experts; ++expert) {
      of_part.push_back(weights.LoadMatrix({part}, layer, expert));
    }
    out_features_ += parts_.emplace_back(std::move(of_part)).out_features();
  }
  group_ = {.layer = layer, .parts = {{site, 0, out_features_}}};
}

at::Tensor ExpertLinearLayer::Forward(const at::Tensor& x, const ExpertRows& pairs, AdapterSeam& seam,
                                      const RowSegments& rows) const {
  std::vector<ExpertLinearPart> parts;
  int64_t first_column = 0;
  for (const ExpertWeights& part : parts_) {
    parts.push_back({part.weights(), first_column});
    first_column += part.out_features();
  }
  at::Tensor y = at::empty({pairs.num_pairs(), out_features_}, x.options());
  ThrowIfError(ExpertLinear({x, parts, pairs.starts, rows.input_rows, y}));
  return seam.FinishLinear(group_, x, std::move(y), at::Tensor(), rows);
}

bool ExpertLinearLayer::DealsOnDevice(const at::Tensor& x) const {
  return lorad::DealsOnDevice({x.device(), x.scalar_type(), parts_.front().quantization(), x.size(0)});
}

at::Tensor ExpertLinearLayer::ForwardDealt(const at::Tensor& x, const DealtRows& dealt, const at::Tensor& rows,
                                           AdapterSeam& seam) const {
  std::vector<DealtLinearPart> parts;
  int64_t first_column = 0;
  for (const ExpertWeights& part : parts_) {
    parts.push_back({part, first_column});
    first_column += part.out_features();
  }
  at::Tensor y = at::empty({dealt.num_pairs(), out_features_}, x.options());
  ThrowIfError(DealtLinear({x, parts, dealt.starts, rows, /*most_rows=*/dealt.pairs.size(0), y}));
  return seam.FinishDealt(group_, x, std::move(y), dealt, rows);
}

at::Tensor ExpertLinearLayer::ForwardByExpert(const at::Tensor& x, const ExpertRows& pairs, AdapterSeam& seam,
                                              const RowSegments& rows) const {
  const at::Tensor input = rows.input_rows.empty() ? x : GatherRows(x, rows.input_rows);
  std::vector<at::Tensor> of_experts;
  for (size_t e = 0; e + 1 < pairs.starts.size(); ++e) {
    const int64_t first = pairs.starts[e], count = pairs.starts[e + 1] - first;
    if (count == 0) continue;
    std::vector<at::Tensor> columns;
    for (const ExpertWeights& part : parts_) {
      columns.push_back(LinearOf(input.narrow(0, first, count), part.weights()[e]));
    }
    of_experts.push_back(columns.size() == 1 ? columns[0] : at::cat(columns, 1));
  }
  at::Tensor y = of_experts.size() == 1 ? of_experts[0] : at::cat(of_experts, 0);
  return seam.FinishLinear(group_, x, std::move(y), at::Tensor(), rows);
}

}  // namespace lorad
