#pragma once

#include <string>

#include "adapters/kinds/kind.h"

namespace lorad {

// PEFT's LoRA and MoE-PEFT's plain one, which has the same names of tensors and few keys in its config:
// adapter_config.json and adapter_model.safetensors, or adapter_model.bin without it. Which configs are theirs says
// recognise_lora.h.
absl::StatusOr<AdapterImage> ReadLora(const std::string& dir, const AdapterConfigJson& config, const BaseShape& base,
                                      FileSource& files, const AdapterReadOptions& options);

}  // namespace lorad
