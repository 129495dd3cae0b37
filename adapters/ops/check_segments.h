#pragma once

#include "absl/status/status.h"
#include "adapters/slot_table.h"
#include "model/ops/check_args.h"
#include "model/row_segments.h"

namespace lorad {

// `rows` covers exactly `num_rows` rows and names slots below `num_slots` only.
absl::Status CheckSegments(const ArgCheck& check, const RowSegments& rows, int64_t num_rows, int32_t num_slots);
// ids [R] int32 and y [R, columns] of an embedding, on one device, and `rows` as above.
absl::Status CheckEmbeddingRows(const ArgCheck& check, const at::Tensor& ids, const at::Tensor& y,
                                const RowSegments& rows, int32_t num_slots);
// input_rows, if there are any, are one for each row and within x [x_rows, in].
absl::Status CheckInputRows(const ArgCheck& check, const RowSegments& rows, int64_t x_rows);
// The expert that each term means, of those that its slot has. CheckSegments comes first.
absl::Status CheckExperts(const ArgCheck& check, const RowSegments& rows, const SlotWeights* slots);

}  // namespace lorad
