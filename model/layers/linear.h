#pragma once

#include <ATen/core/Tensor.h>

#include "model/adapter_seam.h"
#include "model/layers/weight_rows.h"
#include "model/ops/linear.h"

namespace lorad {

// A base matmul and the seam behind it: the only place where either is called.
//
// Errors   throws StatusException, like all layers: called under Guarded.
class LinearLayer final {
 public:
  // weight [out, in], which becomes the layer's; bias [out] or undefined; `group` names the sites whose columns y has.
  LinearLayer(at::Tensor weight, at::Tensor bias, SiteGroup group);
  LinearLayer(LinearWeight weight, at::Tensor bias, SiteGroup group);

  // x [R, in] -> [R, out]: Finish(Base(x)), or AdapterSeam::ForwardLinear of them.
  at::Tensor Forward(const at::Tensor& x, AdapterSeam& seam, const RowSegments& rows) const;

  // The two halves, for an FFN whose rows are routed between them. Base leaves the bias to Finish.
  at::Tensor Base(const at::Tensor& x) const;
  at::Tensor Finish(const at::Tensor& x, at::Tensor y, AdapterSeam& seam, const RowSegments& rows) const;
  // The same for the pairs of routed rows (AdapterSeam::FinishPairs), and what adapters add to them alone, without the
  // bias.
  at::Tensor FinishPairs(const at::Tensor& x, at::Tensor y, AdapterSeam& seam, const RoutedRows& routed,
                         bool by_row) const;
  at::Tensor DeltasOfPairs(const at::Tensor& x, AdapterSeam& seam, const RoutedRows& routed) const;

  const at::Tensor& bias() const { return bias_; }  // [out] or undefined
  // Rows of W [out, in] of one of its sites; none: another's, or W is neither a matrix nor quantised (packed).
  WeightRows WeightOf(Site site) const;

 private:
  LinearWeight weight_;
  at::Tensor bias_;
  SiteGroup group_;
};

}  // namespace lorad
