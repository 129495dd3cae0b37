#pragma once

#include <string>

#include "adapters/kinds/kind.h"

namespace lorad {

// PEFT's LoRA: adapter_config.json and adapter_model.safetensors, or adapter_model.bin without it.
bool RecognisesLora(const AdapterConfigJson& config);
absl::StatusOr<AdapterImage> ReadLora(const std::string& dir, const AdapterConfigJson& config, const BaseShape& base,
                                      FileSource& files, const AdapterReadOptions& options);

}  // namespace lorad
