// As on_device_model_ops.cc: what deals rows to experts.
#include <deque>
#include <utility>
#include <vector>

#include "model/ops/cpu_ops.h"
#include "tests/device/device_copies.h"

namespace lorad::cpu {

absl::Status DealToExperts(const DealToExpertsArgs& args) {
  DeviceCopies on;
  const DealtRows dealt = {on.Of(args.dealt.starts), on.Of(args.dealt.rows), on.Of(args.dealt.pairs),
                           on.Of(args.dealt.weights)};
  return on.Back(lorad::DealToExperts({on.Of(args.experts), on.Of(args.weights), dealt}));
}

absl::Status DealtLinear(const DealtLinearArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  std::deque<ExpertWeights> weights;
  std::vector<DealtLinearPart> parts;
  for (const DealtLinearPart& part : args.parts) {
    std::vector<LinearWeight> of_experts;
    for (const LinearWeight& weight : part.weights.weights()) of_experts.push_back(on.Of(weight));
    parts.push_back({weights.emplace_back(std::move(of_experts)), part.first_column});
  }
  return on.Back(lorad::DealtLinear({on.Of(args.x), parts, on.Of(args.starts), on.Of(args.rows), args.most_rows, y}));
}

absl::Status CombineDealt(const CombineDealtArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  return on.Back(lorad::CombineDealt({on.Of(args.x), on.Of(args.pairs), on.Of(args.weights), on.Of(args.shared),
                                      on.Of(args.shared_logits), y, on.Of(args.rows), args.add}));
}

}  // namespace lorad::cpu
