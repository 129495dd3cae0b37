#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/kinds/peft_targets.h"
#include "adapters/train/train_config.h"
#include "model/sites.h"

namespace lorad {

// What of one module is trained.
struct TrainedModule {
  TargetedModule module;
  bool pair = false;    // A and B, with DoRA a magnitude
  bool weight = false;  // all of it, instead of the base's (modules_to_save)
  bool bias = false;    // instead of the base's
  // Rows of an embedding or a head, instead of the base's: ascending.
  std::vector<int32_t> tokens = {};
  bool tokens_are_tied = false;  // a tied head's: the embedding's own rows
};

// By path. What a config names is decided here, before anything is made. Torch-free.
//
// Errors   as SelectTargets; InvalidArgument, naming the spec's field, for modules and tokens that the base does not
//          have or that are named twice; Unimplemented for what cannot be served, so is not trained.
// Source   peft 0.21.2, set_additional_trainable_modules of utils/other.py.
absl::StatusOr<std::map<std::string, TrainedModule>> SelectTrained(const TrainConfig& config, const BaseShape& base);

}  // namespace lorad
