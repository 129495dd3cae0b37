#include "adapters/kinds/peft_keys.h"

#include <cstdint>
#include <string_view>

#include "adapters/kinds/config_keys.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

enum class KeyUse : uint8_t {
  kRead,      // by ParsePeftLoraConfig
  kInert,     // never changes an answer
  kMustBeOff  // changes the maths in a way that is not supported: must be null, false, empty or kOff
};
struct KnownKey {
  std::string_view name;
  KeyUse use;
  const char* what = "";  // of kMustBeOff: what it would do
};

constexpr KnownKey kKnownKeys[] = {
    {"peft_type", KeyUse::kRead},
    {"routing_strategy", KeyUse::kRead},
    {"r", KeyUse::kRead},
    {"lora_alpha", KeyUse::kRead},
    {"use_rslora", KeyUse::kRead},
    {"rank_pattern", KeyUse::kRead},
    {"alpha_pattern", KeyUse::kRead},
    {"target_modules", KeyUse::kRead},
    {"target_parameters", KeyUse::kRead},
    {"exclude_modules", KeyUse::kRead},
    {"layers_to_transform", KeyUse::kRead},
    {"layers_pattern", KeyUse::kRead},
    {"ensure_weight_tying", KeyUse::kRead},
    {"init_lora_weights", KeyUse::kRead},
    {"bias", KeyUse::kRead},
    {"use_dora", KeyUse::kRead},
    {"lora_bias", KeyUse::kRead},
    {"modules_to_save", KeyUse::kRead},
    {"trainable_token_indices", KeyUse::kRead},
    {"use_bdlora", KeyUse::kRead},
    {"alora_invocation_tokens", KeyUse::kRead},
    // Words for people and programs, training, and how the base was split over devices.
    {"task_type", KeyUse::kInert},
    {"auto_mapping", KeyUse::kInert},
    {"peft_version", KeyUse::kInert},
    {"base_model_name_or_path", KeyUse::kInert},
    {"revision", KeyUse::kInert},
    {"inference_mode", KeyUse::kInert},
    {"task_name", KeyUse::kInert},
    {"lora_init", KeyUse::kInert},
    {"lora_dropout", KeyUse::kInert},
    {"fan_in_fan_out", KeyUse::kInert},  // PEFT turns it off on linears, and no base here has a Conv1D
    {"megatron_config", KeyUse::kInert},
    {"megatron_core", KeyUse::kInert},
    {"loftq_config", KeyUse::kInert},
    {"eva_config", KeyUse::kInert},
    {"corda_config", KeyUse::kInert},
    {"lora_ga_config", KeyUse::kInert},
    {"velora_config", KeyUse::kInert},
    {"runtime_config", KeyUse::kInert},
    {"qalora_group_size", KeyUse::kInert},  // read with use_qalora alone
    {"use_qalora", KeyUse::kMustBeOff, "inputs pooled by group (QA-LoRA)"},
    {"layer_replication", KeyUse::kMustBeOff, "a deeper model made of the base's layers"},
    {"arrow_config", KeyUse::kMustBeOff, "routing among other adapters"},
    {"kasa_config", KeyUse::kMustBeOff, "a base with its smallest singular values removed (KaSA)"},
    {"monteclora_config", KeyUse::kMustBeOff, "sampled weights (MonteCLoRA)"},
};

const KnownKey* Find(std::string_view name) {
  for (const KnownKey& key : kKnownKeys) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

}  // namespace

absl::Status CheckPeftKeys(const AdapterConfigJson& json) {
  for (const auto& [name, value] : json.items()) {
    const KnownKey* known = Find(name);
    if (known == nullptr && !IsOff(value)) {
      return UnsupportedKey(Printable(name), value,
                            "an unknown key that is set may change the maths; remove it if it does not");
    }
    // PEFT takes an empty object for a method's defaults, not for nothing.
    const bool off = IsOff(value) && !value.is_object();
    if (known != nullptr && known->use == KeyUse::kMustBeOff && !off) {
      return UnsupportedKey(name, value, known->what);
    }
  }
  return absl::OkStatus();
}

}  // namespace lorad
