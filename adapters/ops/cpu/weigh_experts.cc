#include "adapters/ops/cpu/weigh_experts.h"

#include <algorithm>
#include <vector>

#include "absl/types/span.h"
#include "adapters/expert_load.h"
#include "adapters/routing.h"
#include "model/ops/cpu/dot_kernels.h"

namespace lorad::cpu {

void WeighExperts(const SlotWeights& weights, const float* x, int64_t rows, int64_t in, float* h, int64_t h_stride) {
  const int64_t experts = weights.experts, packed_stride = PackedFloats(in);
  std::vector<float> packed(static_cast<size_t>(rows * packed_stride)), logits(static_cast<size_t>(rows * experts));
  PackTiles(x, in, rows, in, 0, RowTiles(rows), packed.data(), packed_stride);
  Dot({packed.data(), packed_stride, rows, in, experts, in, experts}, weights.router, logits.data());
  const RoutingRule rule = {.choice = RoutingRule::Choice::kTopK, .top_k = weights.router_top_k, .renormalise = true};
  std::vector<int32_t> chosen(static_cast<size_t>(weights.router_top_k));
  std::vector<float> of_chosen(chosen.size()), of_all(static_cast<size_t>(experts));
  ExpertTally tally(experts);
  for (int64_t i = 0; i < rows; ++i) {
    ChooseExperts(rule, {logits.data() + i * experts, static_cast<size_t>(experts)}, absl::MakeSpan(chosen),
                  absl::MakeSpan(of_chosen));
    tally.Count(chosen);
    std::fill(of_all.begin(), of_all.end(), 0.0f);
    for (size_t j = 0; j < chosen.size(); ++j) of_all[static_cast<size_t>(chosen[j])] = of_chosen[j];
    float* value = h + i * h_stride;
    for (const float weight : of_all) {
      for (int32_t r = 0; r < weights.rank; ++r) *value++ *= weight;
    }
  }
  tally.AddTo(weights.expert_rows);
}

}  // namespace lorad::cpu
