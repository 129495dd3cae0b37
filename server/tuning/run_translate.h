#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "adapters/train/train_config.h"
#include "lorad/v1/finetuning.pb.h"
#include "scheduler/tuning/training_runs.h"
#include "server/model_facts.h"

namespace lorad {

// Requests of service Training as operations. Errors: InvalidArgument and Unimplemented, naming the field.
absl::StatusOr<int64_t> TranslateSequence(uint64_t sequence);
absl::StatusOr<TrainConfig> TranslateRun(const v1::CreateRunRequest& request, const ModelFacts& model);
absl::StatusOr<RunOp> TranslateOp(const v1::ForwardBackwardRequest& request, const ModelFacts& model);
absl::StatusOr<RunOp> TranslateOp(const v1::OptimStepRequest& request, const ModelFacts& model);

}  // namespace lorad
