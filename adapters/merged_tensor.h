#pragma once

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"

namespace lorad {

// The base's tensors with an adapter's update in them, for export only; in f32, rounded once to the base's dtype.
// Source  peft lora/layer.py and dora.py, get_delta_weight and merge.

// f * (W' + scale * B A) of a linear [out, in] or an embedding [vocabulary, hidden]; f by output, 1 without DoRA; W' is
// W with the slot's rows in the place of its own. Errors: DataLoss, with the place, for a result that is not finite in
// the base's dtype.
absl::StatusOr<std::vector<std::byte>> MergedWeight(const BaseTable& weight, bool embedding, const ImageSlot& slot);

// The adapter's own bias or the base's, plus scale * B's bias.
absl::StatusOr<std::vector<std::byte>> MergedBias(const BaseTable& bias, const ImageSlot& slot);

// The adapter's own weight (row 0 of the slot's rows) or bias (row 1) of a norm, in the base's dtype.
absl::StatusOr<std::vector<std::byte>> MergedNorm(const BaseTable& vector, const ImageSlot& slot, int64_t row);

}  // namespace lorad
