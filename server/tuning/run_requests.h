#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/train/training_run.h"
#include "lorad/v1/finetuning.pb.h"
#include "scheduler/tuning/training_runs.h"
#include "server/backend.h"
#include "server/tuning/batch_limits.h"

namespace lorad {

class CausalLm;

// A run of service Training is stored as the request that created it, serialized; to TrainingRuns that is opaque. Here
// it is made of one, and what trains is made of it. Everything named outlives it.
//
// Threads  const.
// Errors   of the request, by its fields; DataLoss for a stored one that cannot be read.
struct RunRequests {
  const Backend* backend;
  CausalLm* model;
  const BaseTables& base_tables;
  MemoryLimit memory;

  // What is to be stored; the weights of init_adapter, whose shape the stored request then says.
  absl::StatusOr<RunBeginning> Begin(v1::CreateRunRequest request) const;
  // TrainingRuns::Parts::state_bytes, max_sequence_tokens and make.
  absl::StatusOr<int64_t> StateBytes(const std::string& stored) const;
  absl::StatusOr<int64_t> MaxSequenceTokens(const std::string& stored) const;
  absl::StatusOr<std::unique_ptr<TrainingRun>> Make(const std::string& stored, bool begins_from_state,
                                                    const GoOnFn& go_on) const;
};

// TrainingRuns::Parts::begins_from_weights.
bool BeginsFromWeights(const std::string& stored);

}  // namespace lorad
