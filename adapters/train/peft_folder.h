#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "adapters/train/leaves.h"
#include "adapters/train/train_config.h"

namespace lorad {

// Writes adapter_config.json and adapter_model.safetensors into the folder `dir`, which exists, as PEFT 0.21 saves a
// LoRA or DoRA, and syncs them. `provenance` is added to the tensors' metadata. Errors: Unavailable with the system's
// words.
absl::Status WritePeftFolder(const std::string& dir, const TrainConfig& config, const AdapterLeaves& leaves,
                             const std::string& base_name, const std::map<std::string, std::string>& provenance = {});

}  // namespace lorad
