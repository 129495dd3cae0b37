#include "adapters/kinds/recognise_lora.h"

#include <algorithm>
#include <iterator>
#include <string_view>

namespace lorad {

bool IsLoraConfig(const AdapterConfigJson& config) {
  const auto routing = config.find("routing_strategy");
  if (routing != config.end() && !routing->is_null()) return false;
  const auto type = config.find("peft_type");
  // MoE-PEFT's plain LoRA may leave the type out.
  return type == config.end() || type->is_null() ? config.contains("r") : *type == "LORA";
}

bool RecognisesMoePeftLora(const AdapterConfigJson& config) {
  constexpr std::string_view kKeys[] = {"peft_type",
                                        "r",
                                        "lora_alpha",
                                        "lora_dropout",
                                        "lora_init",
                                        "use_dora",
                                        "use_rslora",
                                        "target_modules",
                                        "bias",
                                        "name",
                                        "task_name",
                                        "task_type",
                                        "base_model_name_or_path"};
  if (!IsLoraConfig(config)) return false;
  const auto targets = config.find("target_modules");
  if (targets == config.end() || !targets->is_structured()) return false;
  const auto is_known = [&](const auto& item) {
    return std::find(std::begin(kKeys), std::end(kKeys), item.key()) != std::end(kKeys);
  };
  const auto items = config.items();
  const auto bias = config.find("bias");
  return std::all_of(items.begin(), items.end(), is_known) && (bias == config.end() || *bias == "none");
}

bool RecognisesLora(const AdapterConfigJson& config) { return IsLoraConfig(config) && !RecognisesMoePeftLora(config); }

}  // namespace lorad
