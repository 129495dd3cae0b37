#include "model/layers/linear.h"

#include <utility>

#include <ATen/ops/zeros.h>

#include "model/ops/autograd/row_ops.h"

namespace lorad {

LinearLayer::LinearLayer(at::Tensor weight, at::Tensor bias, SiteGroup group)
    : LinearLayer(LinearWeight::Pack(std::move(weight)), std::move(bias), std::move(group)) {}

LinearLayer::LinearLayer(LinearWeight weight, at::Tensor bias, SiteGroup group)
    : weight_(std::move(weight)), bias_(std::move(bias)), group_(std::move(group)) {}

at::Tensor LinearLayer::Base(const at::Tensor& x) const { return LinearOf(x, weight_); }

at::Tensor LinearLayer::Finish(const at::Tensor& x, at::Tensor y, AdapterSeam& seam, const RowSegments& rows) const {
  return seam.FinishLinear(group_, x, std::move(y), bias_, rows);
}

at::Tensor LinearLayer::FinishPairs(const at::Tensor& x, at::Tensor y, AdapterSeam& seam, const RoutedRows& routed,
                                    bool by_row) const {
  return seam.FinishPairs(group_, x, std::move(y), bias_, routed, by_row);
}

at::Tensor LinearLayer::DeltasOfPairs(const at::Tensor& x, AdapterSeam& seam, const RoutedRows& routed) const {
  at::Tensor y = at::zeros({x.size(0), weight_.out_features()}, x.options());
  return seam.FinishPairs(group_, x, std::move(y), at::Tensor(), routed, /*by_row=*/false);
}

at::Tensor LinearLayer::Forward(const at::Tensor& x, AdapterSeam& seam, const RowSegments& rows) const {
  return seam.ForwardLinear(
      group_, x, [&] { return Base(x); }, bias_, rows);
}

WeightRows LinearLayer::WeightOf(Site site) const {
  const bool has_rows = !weight_.packed() || weight_.quantized();
  for (const SitePart& part : group_.parts) {
    if (part.site == site && has_rows) return WeightRows(weight_, part.first_column);
  }
  return WeightRows();
}

}  // namespace lorad
