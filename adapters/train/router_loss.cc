#include "adapters/train/router_loss.h"

#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>

#include "adapters/train/leaves.h"
#include "model/device_step.h"

namespace lorad {

void RouterLoss::Put(int32_t part, Site site, int32_t layer, RouterSums sums) {
  if (parts_[static_cast<size_t>(part)].leaves->routed()->has_loss()) sums_[{layer, part, site}] = std::move(sums);
}

void RouterLoss::JoinTallies() {
  for (size_t part = 0; part < parts_.size(); ++part) {
    RouterTally* const tally = parts_[part].router_tally.get();
    const Totals& own = totals_[part];
    if (tally == nullptr || tally->complete || own.rows == 0) continue;
    const at::Tensor on_host = ToHost(own.chosen);
    const auto* const chosen = on_host.const_data_ptr<double>();
    tally->rows += own.rows;
    tally->chosen.resize(static_cast<size_t>(own.chosen.numel()), 0.0);
    for (size_t e = 0; e < tally->chosen.size(); ++e) tally->chosen[e] += chosen[e];
  }
  for (size_t part = 0; part < parts_.size(); ++part) {
    const RouterTally* const tally = parts_[part].router_tally.get();
    if (tally == nullptr || totals_[part].rows == 0) continue;
    totals_[part].rows = tally->rows;
    const at::Tensor chosen = at::tensor(tally->chosen, at::TensorOptions().dtype(at::kDouble));
    totals_[part].chosen = OnDevice(totals_[part].probabilities.device(), chosen);
  }
}

std::vector<double> RouterLoss::Values() {
  totals_.assign(parts_.size(), {});
  for (const auto& [place, sums] : sums_) {
    Totals& totals = totals_[static_cast<size_t>(std::get<1>(place))];
    const at::Tensor chosen = sums.chosen.to(at::kDouble), mean = sums.probabilities.detach().to(at::kDouble);
    totals.rows += sums.rows;
    totals.chosen = totals.chosen.defined() ? totals.chosen + chosen : chosen;
    totals.probabilities = totals.probabilities.defined() ? totals.probabilities + mean : mean;
    const at::Tensor squares = sums.squares.detach().to(at::kDouble);
    totals.squares = totals.squares.defined() ? totals.squares + squares : squares;
  }
  JoinTallies();
  std::vector<at::Tensor> sums;  // two of each part that has such a loss
  for (const Totals& totals : totals_) {
    if (totals.rows == 0) continue;
    sums.push_back((totals.chosen * totals.probabilities).sum().view({1}));
    sums.push_back(totals.squares.view({1}));
  }
  std::vector<double> values(parts_.size(), 0.0);
  if (sums.empty()) return values;
  const at::Tensor on_host = ToHost(at::cat(sums, 0));
  const double* next = on_host.const_data_ptr<double>();
  for (size_t part = 0; part < parts_.size(); ++part) {
    if (totals_[part].rows == 0) continue;
    const RoutedTraining& routed = *parts_[part].leaves->routed();
    const auto rows = static_cast<double>(totals_[part].rows);
    const double balance = *next++ / (rows * rows), squares = *next++;
    values[part] = routed.aux_loss_coef * routed.moe.experts * balance + routed.z_loss_coef * squares / rows;
  }
  return values;
}

void RouterLoss::TakeRoots(int32_t layer, std::vector<at::Tensor>* roots, std::vector<at::Tensor>* gradients) {
  const auto first = sums_.lower_bound({layer, 0, Site{}}), end = sums_.lower_bound({layer + 1, 0, Site{}});
  for (auto entry = first; entry != end; ++entry) {
    const auto index = static_cast<size_t>(std::get<1>(entry->first));
    const MicroBatchPart& part = parts_[index];
    const RouterSums& sums = entry->second;
    if (part.router_loss_scale == 0.0 || !sums.probabilities.requires_grad()) continue;
    const RoutedTraining& routed = *part.leaves->routed();
    const auto rows = static_cast<double>(totals_[index].rows);
    const double by_share = part.router_loss_scale * routed.aux_loss_coef * routed.moe.experts / (rows * rows);
    roots->push_back(sums.probabilities);
    gradients->push_back((totals_[index].chosen * by_share).to(sums.probabilities.scalar_type()));
    if (routed.z_loss_coef == 0.0) continue;
    roots->push_back(sums.squares);
    gradients->push_back(at::full_like(sums.squares.detach(), part.router_loss_scale * routed.z_loss_coef / rows));
  }
  sums_.erase(first, end);
}

}  // namespace lorad
