#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "adapters/train/leaves.h"
#include "adapters/train/train_config.h"
#include "model/sites.h"

namespace lorad {

// What is trained of an adapter with routers: a module for each router, and for each expert's pair one of its own. The
// same seed gives the same weights.
//
// Source   the starts of MoE-PEFT 2.0.2: Lora.reset_parameters, and the routers of adapters/*/model.py.
// Errors   as SelectRoutedPlaces, and of `base_tables`, which DoRA needs.
absl::StatusOr<std::vector<LeafModule>> MakeRoutedLeaves(const TrainConfig& config, const BaseShape& base,
                                                         const BaseTables& base_tables);

// Takes the weights of an adapter that has the same places, ranks and experts. Errors: InvalidArgument.
absl::Status CopyRoutedLeaves(const AdapterImage& image, std::vector<LeafModule>* modules);

}  // namespace lorad
