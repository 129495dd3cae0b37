#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/train/leaves.h"
#include "adapters/train/train_config.h"
#include "adapters/train/trained_modules.h"

namespace lorad {

// The leaves of a module as training begins: a fresh pair, whose random numbers are a function of `seed`, and copies of
// what of the base is trained itself. A tied head's tokens are left to the caller, who has the embedding's.
// Of a config that begins from a state, a pair that would be made of the base's weight is zeros: that takes minutes.
//
// Errors   as `base_tables`; LibTorch's.
absl::StatusOr<LeafModule> FreshLeaves(const std::string& path, const TrainedModule& trained, const TrainConfig& config,
                                       uint64_t seed, const BaseTables& base_tables);

// DoRA of a linear that has its pair: the base's weight, and a magnitude that begins as the norms of its rows.
absl::Status AddMagnitude(const BaseTables& base_tables, LeafModule* module);

}  // namespace lorad
