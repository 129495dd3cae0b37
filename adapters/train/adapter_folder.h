#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "adapters/train/leaves.h"
#include "adapters/train/train_config.h"

namespace lorad {

// Writes what was trained into the folder `dir`, which exists, in the format of its kind's own program, and syncs it:
// PEFT's (peft_folder.h), or MoE-PEFT's for an adapter with routers, then with provenance.json beside the weights, as
// its format has no place for it. Errors: as WritePeftFolder.
absl::Status WriteAdapterFolder(const std::string& dir, const TrainConfig& config, const AdapterLeaves& leaves,
                                const std::string& base_name,
                                const std::map<std::string, std::string>& provenance = {});

}  // namespace lorad
