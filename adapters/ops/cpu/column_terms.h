#pragma once

#include <cstdint>

#include "adapters/ops/cpu/expand_kernels.h"
#include "adapters/slot_table.h"

namespace lorad::cpu {

// What `weights`, of `out` columns in all, adds beside its pair to columns first_column .. + columns at the request's
// scale, and `bias` [out] or none. Valid until the calling thread asks again.
ExpandColumnTerms ColumnTerms(const SlotWeights& weights, const float* bias, int64_t out, float term_scale,
                              int64_t first_column, int64_t columns);

}  // namespace lorad::cpu
