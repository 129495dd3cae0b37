#include "adapters/ops/cuda/segmented_plan.h"

#include <algorithm>

#include "adapters/ops/cuda/long_segment_kernels.h"
#include "model/base/round_up.h"

namespace lorad::cuda {
namespace {

// What the terms of one segment come to.
struct SegmentSum {
  int64_t ranks = 0;        // of a row of h
  int64_t rank_blocks = 0;  // of a short tile
  int64_t experts = 0;      // most of a slot that routes
  bool adds = false;
};

SegmentSum SumOf(absl::Span<const SegmentedPart> parts, absl::Span<const SlotTerm> terms, bool with_bias) {
  SegmentSum sum;
  for (const SlotTerm& term : terms) {
    for (const SegmentedPart& part : parts) {
      const SlotWeights& w = part.slots[term.slot];
      sum.adds = sum.adds || w.rank > 0 || (with_bias && w.bias != nullptr);
      if (w.rank <= 0) continue;
      sum.ranks += w.ranks_of_a_row();
      sum.rank_blocks += CeilDiv(w.ranks_of_a_row(), kRanksPerBlock);
      if (w.routes()) sum.experts = std::max<int64_t>(sum.experts, w.experts);
    }
  }
  return sum;
}

}  // namespace

SegmentedPlan PlanSegments(absl::Span<const SegmentedPart> parts, int32_t num_slots, const RowSegments& rows,
                           bool with_bias, int32_t h_slices) {
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
    plan.sizes.column_blocks += CeilDiv(part.columns, kColumnsPerShortBlock);
    plan.sizes.long_column_blocks += CeilDiv(part.columns, kColumnsPerLongBlock);
  }

  std::vector<RowTile> long_tiles;
  for (int64_t g = 0; g < rows.groups(); ++g) {
    const int32_t first_term = rows.term_starts[g], end_term = rows.term_starts[g + 1], end = rows.starts[g + 1];
    if (end == rows.starts[g]) continue;  // it would ask for blocks that have no tile
    const SegmentSum sum =
        SumOf(parts, absl::MakeSpan(rows.terms).subspan(first_term, end_term - first_term), with_bias);
    if (!sum.adds) continue;
    const bool is_long = h_slices > 0 && end - rows.starts[g] > kMostShortRows && sum.experts == 0;
    if (is_long) {
      plan.sizes.long_rank_blocks = std::max(plan.sizes.long_rank_blocks, CeilDiv(sum.ranks, kRanksPerLongBlock));
    } else {
      plan.sizes.rank_blocks = std::max(plan.sizes.rank_blocks, sum.rank_blocks);
    }
    plan.sizes.experts = std::max(plan.sizes.experts, sum.experts);
    const int32_t rows_of_tile = is_long ? kRowsPerLongTile : kRowsPerTile;
    for (int32_t r = rows.starts[g]; r < end; r += rows_of_tile) {
      const int32_t count = std::min(rows_of_tile, end - r);
      (is_long ? long_tiles : plan.tiles).push_back({r, count, first_term, end_term, plan.h_floats, sum.ranks});
      plan.h_floats += count * sum.ranks * (is_long ? h_slices : 1);
    }
  }
  plan.num_long_tiles = std::ssize(long_tiles);
  plan.tiles.insert(plan.tiles.end(), long_tiles.begin(), long_tiles.end());
  return plan;
}

}  // namespace lorad::cuda
