#include "adapters/train/peft_folder.h"

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

// Targets are written as whole paths, which mean the same to every reader.
std::string ConfigJson(const TrainConfig& config, const AdapterLeaves& leaves, const std::string& base_name) {
  nlohmann::ordered_json targets = nlohmann::ordered_json::array();
  for (const LeafModule& module : leaves.modules()) targets.push_back(module.path);
  const nlohmann::ordered_json json = {{"alpha_pattern", ObjectOf(config.adapter.alpha_pattern)},
                                       {"base_model_name_or_path", base_name},
                                       {"bias", "none"},
                                       {"fan_in_fan_out", false},
                                       {"inference_mode", true},
                                       {"init_lora_weights", true},
                                       {"lora_alpha", config.adapter.alpha},
                                       {"lora_dropout", config.dropout},
                                       {"modules_to_save", nullptr},
                                       {"peft_type", "LORA"},
                                       {"r", config.adapter.rank},
                                       {"rank_pattern", ObjectOf(config.adapter.rank_pattern)},
                                       {"target_modules", targets},
                                       {"task_type", "CAUSAL_LM"},
                                       {"use_dora", config.adapter.use_dora},
                                       {"use_rslora", config.adapter.use_rslora}};
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace

absl::Status WritePeftFolder(const std::string& dir, const TrainConfig& config, const AdapterLeaves& leaves,
                             const std::string& base_name) {
  NamedTensors tensors;
  for (const NamedLeaf& leaf : leaves.Named()) tensors.emplace_back(leaf.name, leaf.tensor);
  RETURN_IF_ERROR(SaveTensors(absl::StrCat(dir, "/adapter_model.safetensors"), tensors, {{"format", "pt"}}));
  return WriteSyncedFile(absl::StrCat(dir, "/adapter_config.json"), ConfigJson(config, leaves, base_name));
}

}  // namespace lorad
