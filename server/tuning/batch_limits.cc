#include "server/tuning/batch_limits.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "adapters/train/train_size.h"
#include "model/base/status_macros.h"
#include "model/causal_lm.h"

namespace lorad {
namespace {

constexpr int64_t kMostActivationBytes = int64_t{1} << 30;
constexpr int64_t kRunTokens = 4096;  // of a sequence of a run that fits in any case where there is memory for it
constexpr int64_t kRunShare = 4;      // of the memory at most a quarter

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

// The most rows up to `most` of which `fits` is true; 0: not of one.
int64_t MostRows(int64_t most, const std::function<bool(int64_t rows)>& fits) {
  int64_t known = 0;
  while (known < most) {
    const int64_t next = known + (most - known + 1) / 2;
    if (fits(next)) {
      known = next;
    } else {
      most = next - 1;
    }
  }
  return known;
}

// Of one sequence, of whatever adapter.
int64_t BytesOfSequence(const CausalLm& model, int64_t tokens, int64_t kept_bytes) {
  return BatchBytes(model.config(), model.dtype(), WidestOf(model.base_shape()), {tokens, tokens}, kept_bytes);
}

BatchLimits LimitsOnDevice(const CausalLm& model, int64_t memory_bytes) {
  const int64_t most_tokens = std::max<int64_t>(1, model.config().max_context_tokens);
  BatchLimits limits;
  limits.activation_bytes = std::min(memory_bytes / 8, kMostActivationBytes);
  limits.kept_bytes = limits.activation_bytes / 4;  // with dropout and DoRA it takes up to twice that
  limits.max_rows = std::max<int64_t>(1, MostRows(kMostActivationBytes, [&](int64_t rows) {
                                        return BytesOfSequence(model, rows, 0) <= limits.activation_bytes / 2;
                                      }));
  const int64_t wanted = BytesOfSequence(model, std::min(kRunTokens, most_tokens), limits.kept_bytes);
  limits.run_batch_bytes = std::max(limits.activation_bytes, std::min(memory_bytes / kRunShare, wanted));
  return limits;
}

absl::StatusOr<TrainSize> SizeWithin(int64_t most_bytes, const TrainConfig& config, const BaseShape& base) {
  ASSIGN_OR_RETURN(const TrainSize size, SizeOfTraining(config, base));
  if (size.state_bytes <= most_bytes) return size;
  return absl::InvalidArgumentError(
      absl::StrCat("adapter: ", size.parameters, " parameters, bytes with gradients and optimizer: ", size.state_bytes,
                   "; limit: ", most_bytes, "; lower the rank or the number of experts, or raise --memory-bytes"));
}

}  // namespace

BatchLimits BatchLimitsOf(const CausalLm& model, int64_t memory_bytes) {
  if (!model.device().is_cpu()) return LimitsOnDevice(model, memory_bytes);
  const int64_t bytes = std::min(memory_bytes / 8, kMostActivationBytes);
  return {bytes, bytes / 2, std::max<int64_t>(1, bytes / 2 / RowBytes(model))};
}

absl::StatusOr<int64_t> StateBytesWithin(const MemoryLimit& limit, const TrainConfig& config, const BaseShape& base) {
  const int64_t of_batches = std::max(limit.batches.activation_bytes, limit.batches.run_batch_bytes);
  ASSIGN_OR_RETURN(const TrainSize size, SizeWithin(limit.total_bytes - of_batches, config, base));
  return size.state_bytes;
}

absl::StatusOr<JobBytes> JobBytesWithin(const MemoryLimit& limit, const TrainConfig& config, const CausalLm& model,
                                        const BatchShape& largest) {
  const BaseShape& base = model.base_shape();
  ASSIGN_OR_RETURN(const TrainSize size, SizeWithin(limit.total_bytes - limit.batches.activation_bytes, config, base));
  JobBytes bytes = {size.state_bytes, 0};
  if (model.device().is_cpu()) return bytes;
  ASSIGN_OR_RETURN(const AdapterWidths widths, WidthsOf(config, base));
  bytes.batch_bytes = BatchBytes(model.config(), model.dtype(), widths, largest, limit.batches.kept_bytes);
  if (bytes.batch_bytes <= limit.total_bytes - bytes.state_bytes) return bytes;
  return absl::InvalidArgumentError(absl::StrCat(
      "micro-batch: tokens: ", largest.rows, ", of the longest sequence: ", largest.longest_tokens,
      "; bytes on the device: ", bytes.batch_bytes, "; limit: ", limit.total_bytes - bytes.state_bytes,
      ", beside the adapter's states; lower micro_batch_size or dataset.max_length_tokens, or raise --memory-bytes"));
}

absl::StatusOr<int64_t> RunTokensWithin(const BatchLimits& limits, const TrainConfig& config, const CausalLm& model) {
  if (model.device().is_cpu()) return std::numeric_limits<int64_t>::max();
  ASSIGN_OR_RETURN(const AdapterWidths widths, WidthsOf(config, model.base_shape()));
  const auto bytes_of = [&](int64_t tokens) {
    return BatchBytes(model.config(), model.dtype(), widths, {tokens, tokens}, limits.kept_bytes);
  };
  const int64_t most_tokens = std::max<int64_t>(1, model.config().max_context_tokens);
  const int64_t tokens = MostRows(most_tokens, [&](int64_t rows) { return bytes_of(rows) <= limits.run_batch_bytes; });
  if (tokens > 0) return tokens;
  return absl::InvalidArgumentError(absl::StrCat(
      "run: bytes on the device of a sequence of one token: ", bytes_of(1), "; limit: ", limits.run_batch_bytes,
      ", what batches of runs have; train less of the base whole or fewer experts, or raise --memory-bytes"));
}

}  // namespace lorad
