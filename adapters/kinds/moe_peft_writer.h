#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/moe_config.h"
#include "adapters/routing.h"
#include "model/base/new_folder.h"
#include "model/sites.h"

namespace lorad {

// AdapterKind::write in MoE-PEFT's format: adapter_model.bin, which is all that it looks for, and adapter_config.json
// with whole numbers for alpha where the scale has one. What it keeps for training alone is gone from the image, and is
// written as it reads it when it is absent. It refuses a dropout of 0 and drops inputs of LoRA when it answers too: the
// smallest one is written. Errors: Unimplemented for what its format has no place for; as FileError.

// adapter_config.json of MixLoRA, LoRAMoE or MOLA: `lora` is of what is not routed, `expert` of each expert; without
// one there is no such pair.
AdapterConfigJson MoeConfigJson(const MoeStrategy& strategy, const RoutingRule& rule, int64_t experts,
                                const std::optional<MoeRank>& lora, const std::optional<MoeRank>& expert,
                                const std::vector<std::string>& targets);

// The dropout that it reads as next to none.
inline constexpr double kNoMoeDropout = 1e-30;

// MixLoRA, LoRAMoE and MOLA.
absl::Status WriteMoePeft(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                          const NewFolder& folder);

// Plain LoRA; DoRA with its magnitudes, which MoE-PEFT itself neither writes nor reads.
absl::Status WriteMoePeftLora(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                              const NewFolder& folder);

}  // namespace lorad
