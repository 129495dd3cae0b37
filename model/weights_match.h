#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/statusor.h"
#include "model/arch/architecture.h"
#include "model/safetensors_checkpoint.h"

namespace lorad {

struct WeightKey {
  WeightName name;
  int32_t layer = -1;   // -1: not in a layer
  int32_t expert = -1;  // -1: not of an expert
  auto operator<=>(const WeightKey&) const = default;
};

using MatchedWeights = std::map<WeightKey, StoredTensor>;

// Finds every row of `rows` for each of its layers and experts in the checkpoint. Tensors that old exporters left and
// nobody needs (rotary_emb.inv_freq, masked_bias, decoder.version) are passed over. Errors: DataLoss, one message with
// the counts and the first names of missing, unexpected and wrong-shaped tensors; Unimplemented for a stored dtype
// other than F32, F16, BF16.
absl::StatusOr<MatchedWeights> MatchWeights(const std::vector<WeightRow>& rows, int64_t num_layers,
                                            const Checkpoint& checkpoint);

}  // namespace lorad
