#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "adapters/train/batch_bytes.h"
#include "adapters/train/train_config.h"
#include "scheduler/tuning/running_job.h"

namespace lorad {

class CausalLm;

// What a batch of training may take of the memory that serving and training share.
struct BatchLimits {
  int64_t activation_bytes = 0;  // of a batch of several jobs, and held at least while there are any
  int64_t kept_bytes = 0;        // of them, for inner values of layers; the rest is for rows
  int64_t max_rows = 1;          // of a batch of several jobs
  int64_t run_batch_bytes = 0;   // on a device, whose memory ends: what runs hold for their batches
};
BatchLimits BatchLimitsOf(const CausalLm& model, int64_t memory_bytes);

// What training may hold.
struct MemoryLimit {
  int64_t total_bytes = 0;  // of the memory that serving and training share
  BatchLimits batches;
};
// What training holds in its states, from shapes alone. Errors: as SizeOfTraining; InvalidArgument for what would not
// fit though nobody else used the memory.
absl::StatusOr<int64_t> StateBytesWithin(const MemoryLimit& limit, const TrainConfig& config, const BaseShape& base);
// The same with its largest micro-batch, which is counted on a device alone. Errors: also InvalidArgument for a batch
// that would not fit beside the states.
absl::StatusOr<JobBytes> JobBytesWithin(const MemoryLimit& limit, const TrainConfig& config, const CausalLm& model,
                                        const BatchShape& largest);

// The tokens that a sequence of a run with this adapter may have: what batches of runs have memory for on a device.
// Errors: as SizeOfTraining; InvalidArgument where that is none.
absl::StatusOr<int64_t> RunTokensWithin(const BatchLimits& limits, const TrainConfig& config, const CausalLm& model);

}  // namespace lorad
