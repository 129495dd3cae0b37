#pragma once

#include "absl/status/status.h"
#include "model/ops/check_args.h"
#include "model/row_segments.h"

namespace lorad {

// `rows` covers exactly `num_rows` rows and names slots below `num_slots` only.
absl::Status CheckSegments(const ArgCheck& check, const RowSegments& rows, int64_t num_rows, int32_t num_slots);

}  // namespace lorad
