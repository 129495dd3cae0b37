#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/kinds/peft_config.h"
#include "adapters/kinds/peft_targets.h"
#include "model/safetensors.h"

namespace lorad {

using FileTensor = std::pair<const std::string, SafetensorsEntry>;  // name in the file, place

// What a file has for one module; nullptr: nothing.
struct ModuleTensors {
  const FileTensor* a = nullptr;
  const FileTensor* b = nullptr;
  const FileTensor* magnitude = nullptr;
  const FileTensor* delta_bias = nullptr;
  const FileTensor* bias = nullptr;
  const FileTensor* table = nullptr;       // the module's own weight
  const FileTensor* token_rows = nullptr;  // rows of it (trainable_token_indices)
  const FileTensor* original = nullptr;    // of a table that is saved whole: what a tied one has

  bool has_pair() const { return a != nullptr && b != nullptr; }
};

// A PEFT file's tensors in their places; nothing is read yet. Points into the index.
struct PeftTensors {
  std::map<std::string, ModuleTensors> modules;  // by path
};

// "FILE: tensor NAME: "
std::string About(const SafetensorsIndex& index, const FileTensor& tensor);

// Puts every tensor in its place and checks that the file holds exactly what `config` says, in the base's shapes.
// `targets` are the modules with LoRA. Errors: InvalidArgument for a tensor that fits no module, or that the config
// does not speak of; Unimplemented for a dtype, or a pair on a resized table; DataLoss for what is missing or there
// twice.
absl::StatusOr<PeftTensors> SortPeftTensors(const SafetensorsIndex& index, const PeftLoraConfig& config,
                                            const BaseShape& base,
                                            const std::map<std::string, TargetedModule>& targets);

}  // namespace lorad
