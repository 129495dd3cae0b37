#pragma once

#include "absl/status/status.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "model/base/new_folder.h"
#include "model/sites.h"

namespace lorad {

// AdapterKind::write in MoE-PEFT's format: adapter_model.bin, which is all that it looks for, and adapter_config.json
// with whole numbers for alpha where the scale has one. What it keeps for training alone is gone from the image, and is
// written as it reads it when it is absent. It refuses a dropout of 0 and drops inputs of LoRA when it answers too: the
// smallest one is written. Errors: Unimplemented for what its format has no place for; as FileError.

// MixLoRA, LoRAMoE and MOLA.
absl::Status WriteMoePeft(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                          const NewFolder& folder);

// Plain LoRA; DoRA with its magnitudes, which MoE-PEFT itself neither writes nor reads.
absl::Status WriteMoePeftLora(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                              const NewFolder& folder);

}  // namespace lorad
