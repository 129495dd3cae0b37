#pragma once

#include "absl/status/status.h"
#include "adapters/kinds/kind.h"

namespace lorad {

// Every key of a LoraConfig's adapter_config.json is known here as read, as one that changes no answer, or as one that
// must be off. Errors: Unimplemented, by its name, for one that must be off and is not, or is not known and is set.
// Source: peft 0.21.2, tuners/lora/config.py.
absl::Status CheckPeftKeys(const AdapterConfigJson& json);

}  // namespace lorad
