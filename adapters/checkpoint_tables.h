#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "model/quantization.h"
#include "model/sites.h"

namespace lorad {

// The tensors of the checkpoint in `model_dir`, mapped as long as the result lives; pages are read only when an adapter
// needs them. What the base computes with quantised is W', made anew at each call. Errors: as OpenCheckpoint.
absl::StatusOr<BaseTables> OpenBaseTables(const std::string& model_dir, const BaseShape& base,
                                          Quantization quantization = Quantization::kNone);

}  // namespace lorad
