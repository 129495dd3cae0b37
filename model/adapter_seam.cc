#include "model/adapter_seam.h"

#include <utility>

namespace lorad {

bool AdapterSeam::FinishesDealt(int, const RowSegments& rows) { return rows.base_only(); }

at::Tensor AdapterSeam::FinishDealt(const SiteGroup&, const at::Tensor&, at::Tensor y, const DealtRows&,
                                    const at::Tensor&) {
  return y;
}

at::Tensor AdapterSeam::FinishPairs(const SiteGroup& group, const at::Tensor& x, at::Tensor y,
                                    const at::Tensor& base_bias, const RoutedRows& routed, bool by_row) {
  if (by_row) return FinishLinear(group, x, std::move(y), base_bias, routed.pairs);
  RowSegments rows = routed.pairs;
  rows.input_rows.clear();
  return FinishLinear(group, x, std::move(y), base_bias, rows);
}

at::Tensor AdapterSeam::ForwardLinear(const SiteGroup& group, const at::Tensor& x, absl::FunctionRef<at::Tensor()> base,
                                      const at::Tensor& base_bias, const RowSegments& rows) {
  return FinishLinear(group, x, base(), base_bias, rows);
}

at::Tensor BaseOnlySeam::FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y,
                                      const at::Tensor& base_bias, const RowSegments& rows) {
  if (base_bias.defined()) y.add_(base_bias);
  return y;
}

RowRouting BaseOnlySeam::RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) { return {&rows}; }

at::Tensor BaseOnlySeam::FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) { return raw; }

const NormOverride* BaseOnlySeam::Norm(int layer, Site site, const RowSegments& rows) { return nullptr; }

}  // namespace lorad
