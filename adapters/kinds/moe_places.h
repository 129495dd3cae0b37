#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "adapters/image.h"
#include "adapters/kinds/moe_config.h"
#include "adapters/kinds/peft_tensors.h"
#include "model/safetensors.h"
#include "model/sites.h"

namespace lorad {

// What a MoE-PEFT file has for one place of the base: one pair, or one for each expert. Points into the index.
struct MoePlace {
  ImageSlot slot;  // without tensors
  std::vector<const FileTensor*> a, b;
  std::vector<const FileTensor*> magnitudes;  // of DoRA; MoE-PEFT itself writes none
  const FileTensor* router = nullptr;
};

// Every place that the config asks for, by layer; nothing is read. All of the file's tensors have to have one, and each
// place all of its tensors: MoE-PEFT itself makes up what is missing.
//
// Errors   DataLoss for tensors that are missing or there twice; InvalidArgument for those that fit nowhere, or have
//          another shape; Unimplemented for a dtype, a base with routed experts, DoRA where linears have routers.
absl::StatusOr<std::vector<MoePlace>> FindMoePlaces(const MoeConfig& config, const BaseShape& base,
                                                    const SafetensorsIndex& index);

}  // namespace lorad
