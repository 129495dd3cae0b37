#include "server/tuning/batch_limits.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "adapters/train/train_size.h"
#include "model/base/status_macros.h"
#include "model/causal_lm.h"

namespace lorad {
namespace {

// The input of every layer, twice, and what one layer computes, widened.
int64_t RowBytes(const CausalLm& model) {
  const ModelConfig& shape = model.config();
  const int64_t inputs_bytes = 2 * shape.num_layers * shape.hidden_size * (model.dtype() == DType::kBF16 ? 2 : 4);
  const RoutedFfnConfig& routed = shape.routed;
  const int64_t inner_values =
      (12 + 4 * routed.experts_per_token) * shape.hidden_size + 6 * shape.intermediate_size +
      6 * (routed.experts_per_token * routed.intermediate_size + routed.shared_intermediate_size);
  return inputs_bytes + 4 * inner_values;
}

}  // namespace

BatchLimits BatchLimitsOf(const CausalLm& model, int64_t memory_bytes) {
  const int64_t bytes = std::min(memory_bytes / 8, int64_t{1} << 30);
  return {bytes, bytes / 2, std::max<int64_t>(1, bytes / 2 / RowBytes(model))};
}

absl::StatusOr<int64_t> StateBytesWithin(const MemoryLimit& limit, const TrainConfig& config, const BaseShape& base) {
  ASSIGN_OR_RETURN(const TrainSize size, SizeOfTraining(config, base));
  const int64_t most = limit.total_bytes - limit.activation_bytes;
  if (size.state_bytes <= most) return size.state_bytes;
  return absl::InvalidArgumentError(
      absl::StrCat("adapter: ", size.parameters, " parameters, bytes with gradients and optimizer: ", size.state_bytes,
                   "; limit: ", most, "; lower the rank or the number of experts, or raise --memory-bytes"));
}

}  // namespace lorad
