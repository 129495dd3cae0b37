#include "adapters/train/peft_folder.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/config_text.h"
#include "adapters/kinds/peft_facts.h"
#include "adapters/train/synced_file.h"
#include "adapters/train/tensor_file.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

template <typename Pattern>
nlohmann::ordered_json ObjectOf(const Pattern& pattern) {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const auto& [expression, value] : pattern) object[expression] = value;
  return object;
}

// By the modules' whole paths, which mean the same to every reader.
struct SavedPaths {
  nlohmann::ordered_json targets = nlohmann::ordered_json::array();
  nlohmann::ordered_json whole;   // modules_to_save; null: none
  nlohmann::ordered_json tokens;  // module -> tokens; null: none
};

SavedPaths PathsOf(const AdapterLeaves& leaves) {
  SavedPaths paths;
  for (const LeafModule& module : leaves.modules()) {
    if (module.a.defined()) paths.targets.push_back(module.path);
    if (module.weight.defined()) paths.whole.push_back(module.path);
    if (!module.token_rows.defined() || module.tokens_are_tied) continue;
    const at::Tensor on_host = module.token_ids.cpu();
    const auto* const ids = on_host.const_data_ptr<int64_t>();
    paths.tokens[module.path] = std::vector<int64_t>(ids, ids + on_host.numel());
  }
  return paths;
}

// The ranks of what is saved, with scales as they were: a pair that was taken off the base is saved beside each.
PeftLoraConfig SavedConfig(const TrainConfig& config, const AdapterLeaves& leaves) {
  PeftLoraConfig saved = config.adapter;
  if (leaves.Constants().empty()) return saved;
  const double factor = saved.use_rslora ? std::sqrt(2.0) : 2.0;
  saved.rank *= 2;
  saved.alpha *= factor;
  for (auto& [expression, rank] : saved.rank_pattern) rank *= 2;
  for (auto& [expression, alpha] : saved.alpha_pattern) alpha *= factor;
  return saved;
}

std::string ConfigFile(const TrainConfig& config, const AdapterLeaves& leaves, const std::string& base_name) {
  const PeftLoraConfig saved = SavedConfig(config, leaves);
  const SavedPaths paths = PathsOf(leaves);
  const nlohmann::ordered_json json = {{"alpha_pattern", ObjectOf(saved.alpha_pattern)},
                                       {"base_model_name_or_path", base_name},
                                       {"bias", Name(config.adapter.bias)},
                                       {"fan_in_fan_out", false},
                                       {"inference_mode", true},
                                       {"init_lora_weights", true},
                                       {"lora_alpha", saved.alpha},
                                       {"lora_dropout", config.dropout},
                                       {"modules_to_save", paths.whole},
                                       {"peft_type", "LORA"},
                                       {"r", saved.rank},
                                       {"rank_pattern", ObjectOf(saved.rank_pattern)},
                                       {"target_modules", paths.targets},
                                       {"task_type", "CAUSAL_LM"},
                                       {"trainable_token_indices", paths.tokens},
                                       {"use_dora", config.adapter.use_dora},
                                       {"use_rslora", config.adapter.use_rslora}};
  return ConfigText(json);
}

}  // namespace

absl::Status WritePeftFolder(const std::string& dir, const TrainConfig& config, const AdapterLeaves& leaves,
                             const std::string& base_name, const std::map<std::string, std::string>& provenance) {
  NamedTensors tensors;
  for (const NamedLeaf& leaf : leaves.Saved()) tensors.emplace_back(leaf.name, leaf.tensor);
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  metadata.insert(provenance.begin(), provenance.end());
  RETURN_IF_ERROR(SaveTensors(absl::StrCat(dir, "/adapter_model.safetensors"), tensors, metadata));
  return WriteSyncedFile(absl::StrCat(dir, "/adapter_config.json"), ConfigFile(config, leaves, base_name));
}

}  // namespace lorad
