#pragma once

#include <string>

#include "adapters/kinds/kind.h"

namespace lorad {

// PEFT's LoRA and MoE-PEFT's plain one, which has the same names of tensors and few keys in its config:
// adapter_config.json and adapter_model.safetensors, or adapter_model.bin without it.
bool IsLoraConfig(const AdapterConfigJson& config);
bool RecognisesLora(const AdapterConfigJson& config);         // PEFT's
bool RecognisesMoePeftLora(const AdapterConfigJson& config);  // nothing that MoE-PEFT's could not say
absl::StatusOr<AdapterImage> ReadLora(const std::string& dir, const AdapterConfigJson& config, const BaseShape& base,
                                      FileSource& files, const AdapterReadOptions& options);

}  // namespace lorad
