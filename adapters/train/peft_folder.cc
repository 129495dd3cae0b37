#include "adapters/train/peft_folder.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
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

const char* NameOf(PeftBias bias) {
  return bias == PeftBias::kAll ? "all" : bias == PeftBias::kLoraOnly ? "lora_only" : "none";
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

// Targets are written as whole paths, which mean the same to every reader.
std::string ConfigJson(const TrainConfig& config, const AdapterLeaves& leaves, const std::string& base_name) {
  const PeftLoraConfig saved = SavedConfig(config, leaves);
  nlohmann::ordered_json targets = nlohmann::ordered_json::array();
  for (const LeafModule& module : leaves.modules()) {
    if (module.a.defined()) targets.push_back(module.path);
  }
  const nlohmann::ordered_json json = {{"alpha_pattern", ObjectOf(saved.alpha_pattern)},
                                       {"base_model_name_or_path", base_name},
                                       {"bias", NameOf(config.adapter.bias)},
                                       {"fan_in_fan_out", false},
                                       {"inference_mode", true},
                                       {"init_lora_weights", true},
                                       {"lora_alpha", saved.alpha},
                                       {"lora_dropout", config.dropout},
                                       {"modules_to_save", nullptr},
                                       {"peft_type", "LORA"},
                                       {"r", saved.rank},
                                       {"rank_pattern", ObjectOf(saved.rank_pattern)},
                                       {"target_modules", targets},
                                       {"task_type", "CAUSAL_LM"},
                                       {"use_dora", config.adapter.use_dora},
                                       {"use_rslora", config.adapter.use_rslora}};
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace

absl::Status WritePeftFolder(const std::string& dir, const TrainConfig& config, const AdapterLeaves& leaves,
                             const std::string& base_name, const std::map<std::string, std::string>& provenance) {
  NamedTensors tensors;
  for (const NamedLeaf& leaf : leaves.Saved()) tensors.emplace_back(leaf.name, leaf.tensor);
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  metadata.insert(provenance.begin(), provenance.end());
  RETURN_IF_ERROR(SaveTensors(absl::StrCat(dir, "/adapter_model.safetensors"), tensors, metadata));
  return WriteSyncedFile(absl::StrCat(dir, "/adapter_config.json"), ConfigJson(config, leaves, base_name));
}

}  // namespace lorad
