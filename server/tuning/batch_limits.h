#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "adapters/train/train_config.h"
#include "model/sites.h"

namespace lorad {

class CausalLm;

// What a batch of training may take.
struct BatchLimits {
  int64_t activation_bytes = 0;  // in all, of the memory that serving and training share
  int64_t kept_bytes = 0;        // of them, for inner values of layers; the rest is for rows
  int64_t max_rows = 1;          // of a batch of several jobs
};
BatchLimits BatchLimitsOf(const CausalLm& model, int64_t memory_bytes);

// The memory that serving and training share, and what of it batches take.
struct MemoryLimit {
  int64_t total_bytes = 0;
  int64_t activation_bytes = 0;
};
// What training holds in its states, from shapes alone. Errors: as SizeOfTraining; InvalidArgument for what would not
// fit though nobody else used the memory.
absl::StatusOr<int64_t> StateBytesWithin(const MemoryLimit& limit, const TrainConfig& config, const BaseShape& base);

}  // namespace lorad
