#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "adapters/train/train_config.h"
#include "model/sites.h"

namespace lorad {

// What training takes of memory, from shapes alone: known before anything is made.
struct TrainSize {
  int64_t parameters = 0;   // that are trained
  int64_t state_bytes = 0;  // f32: weights, gradients, the optimizer's states, and pairs that were taken off the base
};

// Errors: as SelectTrained and SelectRoutedPlaces. Torch-free.
absl::StatusOr<TrainSize> SizeOfTraining(const TrainConfig& config, const BaseShape& base);

// How often a row counts among those of a batch: each expert that it goes to keeps values of its own until the
// backward.
int64_t RowCost(const TrainConfig& config);

}  // namespace lorad
