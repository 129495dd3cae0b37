#include "model/layers/expert_linear.h"

#include <utility>

#include <ATen/ops/empty.h>

#include "model/base/guarded.h"
#include "model/ops/expert_linear.h"

namespace lorad {

ExpertLinearLayer::ExpertLinearLayer(std::initializer_list<WeightName> parts, Site site, int layer, int64_t experts,
                                     WeightLoader& weights) {
  for (const WeightName part : parts) {
    std::vector<LinearWeight>& of_part = parts_.emplace_back();
    for (int32_t expert = 0; expert < experts; ++expert) {
      of_part.push_back(weights.LoadMatrix({part}, layer, expert));
    }
    out_features_ += of_part.front().out_features();
  }
  group_ = {.layer = layer, .parts = {{site, 0, out_features_}}};
}

at::Tensor ExpertLinearLayer::Forward(const at::Tensor& x, const ExpertRows& pairs, AdapterSeam& seam,
                                      const RowSegments& rows) const {
  std::vector<ExpertLinearPart> parts;
  int64_t first_column = 0;
  for (const std::vector<LinearWeight>& weights : parts_) {
    parts.push_back({weights, first_column});
    first_column += weights.front().out_features();
  }
  at::Tensor y = at::empty({pairs.num_pairs(), out_features_}, x.options());
  ThrowIfError(ExpertLinear({x, parts, pairs.starts, rows.input_rows, y}));
  return seam.FinishLinear(group_, x, std::move(y), at::Tensor(), rows);
}

}  // namespace lorad
