#pragma once

#include <initializer_list>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/adapter_seam.h"
#include "model/expert_rows.h"
#include "model/ops/dealt_experts.h"
#include "model/ops/expert_weights.h"
#include "model/weights.h"

namespace lorad {

// One matmul for each expert and the seam behind them: LinearLayer's sibling.
//
// Errors   throws StatusException, like all layers: called under Guarded.
class ExpertLinearLayer final {
 public:
  // The parts' columns lie one behind the other in y; `site` is the stack of all experts' parts.
  ExpertLinearLayer(std::initializer_list<WeightName> parts, Site site, int layer, int64_t experts,
                    WeightLoader& weights);

  // x [R, in] -> [P, out], the pairs of `pairs`. `rows` are the segments of the pairs; its input_rows say which row of
  // x each pair reads, its own if there are none.
  at::Tensor Forward(const at::Tensor& x, const ExpertRows& pairs, AdapterSeam& seam, const RowSegments& rows) const;
  // The same of rows dealt where they are, by DealsOnDevice and AdapterSeam::FinishesDealt. `rows` [P]: of x, one for
  // each pair, or undefined: x has a row for each.
  at::Tensor ForwardDealt(const at::Tensor& x, const DealtRows& dealt, const at::Tensor& rows, AdapterSeam& seam) const;
  // The same of a training batch, expert by expert: a gradient goes through it, and who waits can go first between two.
  at::Tensor ForwardByExpert(const at::Tensor& x, const ExpertRows& pairs, AdapterSeam& seam,
                             const RowSegments& rows) const;

  int layer() const { return group_.layer; }
  // Whether so many rows of x are best dealt where they are.
  bool DealsOnDevice(const at::Tensor& x) const;

 private:
  std::vector<ExpertWeights> parts_;
  int64_t out_features_ = 0;
  SiteGroup group_;
};

}  // namespace lorad
