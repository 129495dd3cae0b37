#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "absl/types/span.h"

namespace lorad {

// Rows read by number, one several times, and what is at their places summed by row: each is the other's gradient. Both
// read, and sum a row's places in their order: a sum by additions at the rows (index_add, or the gradient of
// index_select) has the order of a device's threads, and with three places or more other bits each time.
//
// Sums in f32, cast once. Threads, errors  as row_ops.h.

// x [R, n], rows [P] of 0..R -> [P, n]
at::Tensor GatherRows(const at::Tensor& x, absl::Span<const int32_t> rows);

// values [P, n], rows [P] of 0..count -> [count, n], zero for a row without a place.
at::Tensor SumRows(const at::Tensor& values, absl::Span<const int32_t> rows, int64_t count);

}  // namespace lorad
