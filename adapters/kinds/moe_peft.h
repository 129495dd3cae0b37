#pragma once

#include <string>

#include "adapters/kinds/kind.h"
#include "adapters/kinds/moe_config.h"

namespace lorad {

// MoE-PEFT's routed adapters: adapter_config.json and adapter_model.bin, or adapter_model.safetensors with the same
// names; also the names that MixLoRA's tensors had before. Every projection that the config includes must be there, in
// every layer, with all its experts and its router: MoE-PEFT itself makes up what is missing.
absl::StatusOr<AdapterImage> ReadMoePeft(const std::string& dir, const AdapterConfigJson& config, const BaseShape& base,
                                         FileSource& files, const AdapterReadOptions& options);

}  // namespace lorad
