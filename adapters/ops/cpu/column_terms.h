#pragma once

#include <cstdint>

#include "adapters/ops/cpu/expand_kernels.h"
#include "adapters/slot_table.h"
#include "model/row_segments.h"

namespace lorad::cpu {

// What `weights`, of `out` columns in all, adds beside the term's pair to columns first_column .. + columns, and `bias`
// [out] or none. Valid until the calling thread asks again.
ExpandColumnTerms ColumnTerms(const SlotWeights& weights, const float* bias, int64_t out, const SlotTerm& term,
                              int64_t first_column, int64_t columns);

}  // namespace lorad::cpu
