#pragma once

#include <vector>

#include "absl/types/span.h"
#include "adapters/ops/cuda/segmented_kernels.h"
#include "model/row_segments.h"

namespace lorad::cuda {

// What the kernels of adapters/ops/cuda read, made on the host. Slots are those that the step uses, numbered anew.
struct SegmentedPlan {
  std::vector<RowTile> tiles;  // the long ones last
  int64_t num_long_tiles = 0;
  std::vector<SlotTerm> terms;
  std::vector<SlotWeights> slots;    // [parts, used slots]
  std::vector<SegmentedPart> parts;  // without `slots`
  int64_t h_floats = 0;
  SegmentedSizes sizes;
  int64_t used_slots = 0;
};

// `parts` have the host's tables, num_slots entries each. Segments without terms have no tile. `with_bias` as in
// SegmentedWork. Segments of more than kMostShortRows have long tiles, h_slices as in SegmentedWork, unless a slot of
// theirs routes; h_slices 0: none has.
SegmentedPlan PlanSegments(absl::Span<const SegmentedPart> parts, int32_t num_slots, const RowSegments& rows,
                           bool with_bias, int32_t h_slices);

}  // namespace lorad::cuda
