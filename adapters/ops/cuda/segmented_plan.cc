#include "adapters/ops/cuda/segmented_plan.h"

#include <algorithm>

namespace lorad::cuda {
namespace {

int64_t BlocksOf(int64_t items, int64_t each) { return (items + each - 1) / each; }

}  // namespace

SegmentedPlan PlanSegments(absl::Span<const SegmentedPart> parts, int32_t num_slots, const RowSegments& rows,
                           bool with_bias) {
  SegmentedPlan plan;
  std::vector<int32_t> number_of(static_cast<size_t>(num_slots), -1);
  std::vector<int32_t> used;
  for (const SlotTerm& term : rows.terms) {
    int32_t& number = number_of[static_cast<size_t>(term.slot)];
    if (number < 0) {
      number = static_cast<int32_t>(used.size());
      used.push_back(term.slot);
    }
    plan.terms.push_back({number, term.scale, term.expert});
  }
  plan.used_slots = std::ssize(used);
  for (const SegmentedPart& part : parts) {
    plan.parts.push_back({nullptr, part.first_column, part.columns});
    for (const int32_t slot : used) plan.slots.push_back(part.slots[slot]);
    plan.sizes.column_blocks += BlocksOf(part.columns, kColumnsPerBlock);
  }

  for (int64_t g = 0; g < rows.groups(); ++g) {
    int64_t ranks = 0, blocks = 0;
    bool adds = false;
    for (int32_t t = rows.term_starts[g]; t < rows.term_starts[g + 1]; ++t) {
      for (const SegmentedPart& part : parts) {
        const SlotWeights& w = part.slots[rows.terms[t].slot];
        adds = adds || w.rank > 0 || (with_bias && w.bias != nullptr);
        if (w.rank <= 0) continue;
        ranks += w.ranks_of_a_row();
        blocks += BlocksOf(w.ranks_of_a_row(), kRanksPerBlock);
        if (w.routes()) plan.sizes.experts = std::max<int64_t>(plan.sizes.experts, w.experts);
      }
    }
    if (!adds) continue;
    plan.sizes.rank_blocks = std::max(plan.sizes.rank_blocks, blocks);
    for (int32_t r = rows.starts[g]; r < rows.starts[g + 1]; r += kRowsPerTile) {
      const int32_t count = std::min<int32_t>(kRowsPerTile, rows.starts[g + 1] - r);
      plan.tiles.push_back({r, count, rows.term_starts[g], rows.term_starts[g + 1], plan.h_floats, ranks});
      plan.h_floats += count * ranks;
    }
  }
  return plan;
}

}  // namespace lorad::cuda
