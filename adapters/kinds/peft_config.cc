#include "adapters/kinds/peft_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/kinds/config_keys.h"
#include "adapters/kinds/peft_keys.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

using Json = AdapterConfigJson;

absl::StatusOr<PeftBias> ReadBias(const Json& json) {
  const Json* value = FindSet(json, "bias");
  if (value == nullptr || *value == "none") return PeftBias::kNone;
  if (*value == "lora_only") return PeftBias::kLoraOnly;
  if (*value == "all") return PeftBias::kAll;
  return InvalidKey("bias", *value, "must be \"none\", \"all\" or \"lora_only\"");
}

absl::StatusOr<int64_t> RankOf(const std::string& key, const Json& value) {
  const std::string rule = absl::StrCat("must be a whole number; limit: 1..", kMaxConfigRank);
  if (!value.is_number_integer()) return InvalidKey(key, value, rule);
  const bool huge = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMaxConfigRank);
  if (huge || value.get<int64_t>() < 1 || value.get<int64_t>() > kMaxConfigRank) return InvalidKey(key, value, rule);
  return value.get<int64_t>();
}

absl::StatusOr<double> AlphaOf(const std::string& key, const Json& value) {
  constexpr double kLimit = std::numeric_limits<float>::max();
  if (!value.is_number()) return InvalidKey(key, value, "must be a number");
  const double alpha = value.get<double>();
  if (!std::isfinite(alpha) || std::abs(alpha) > kLimit) return InvalidKey(key, value, absl::StrCat("limit: ", kLimit));
  return alpha;
}

absl::Status CheckCount(const char* key, const Json& list, size_t limit = kMaxConfigEntries) {
  if (list.size() <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("adapter_config.json: ", key, ": entries: ", list.size(), "; limit: ", limit));
}

template <typename T>
absl::Status ReadPattern(const Json& json, const char* key, absl::StatusOr<T> (*read)(const std::string&, const Json&),
                         std::vector<std::pair<std::string, T>>* pattern) {
  const Json* value = FindSet(json, key);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_object()) return InvalidKey(key, *value, "must be an object of expressions and numbers");
  RETURN_IF_ERROR(CheckCount(key, *value));
  for (const auto& [expression, number] : value->items()) {
    ASSIGN_OR_RETURN(const T parsed, read(absl::StrCat(key, ": ", Printable(expression)), number));
    pattern->emplace_back(expression, parsed);
  }
  return absl::OkStatus();
}

// A string, or a list of strings; `empty_list` when the list may be empty.
absl::Status ReadNames(const char* key, const Json& value, std::vector<std::string>* names) {
  if (!value.is_array()) return InvalidKey(key, value, "must be a string or a list of strings");
  RETURN_IF_ERROR(CheckCount(key, value));
  for (const Json& name : value) {
    if (!name.is_string()) return InvalidKey(key, value, "must be a string or a list of strings");
    names->push_back(name.get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status ReadTargets(const Json& json, const std::string& model_type, PeftLoraConfig* config) {
  if (const Json* parameters = FindSet(json, "target_parameters"); parameters != nullptr && !IsOff(*parameters)) {
    RETURN_IF_ERROR(ReadNames("target_parameters", *parameters, &config->target_parameters));
  }
  const bool may_be_empty = !config->target_parameters.empty();
  const Json* targets = FindSet(json, "target_modules");
  if (targets == nullptr) {
    if (may_be_empty) return absl::OkStatus();
    for (const char* known :
         {"llama", "mistral", "mixtral", "qwen2", "qwen3", "opt", "gemma", "gemma2", "gemma3_text", "phi"}) {
      if (model_type == known) config->target_names = {"q_proj", "v_proj"};
    }
    if (model_type == "phi") config->target_names.insert(config->target_names.end(), {"fc1", "fc2"});
    if (config->target_names.empty()) {
      return InvalidKey("target_modules", nullptr,
                        absl::StrCat("no default for model_type: ", model_type, "; name the modules"));
    }
  } else if (targets->is_string()) {
    const std::string& text = targets->get_ref<const std::string&>();
    if (absl::AsciiStrToLower(text) == "all-linear") {
      config->all_linear = true;
    } else {
      config->target_regex = text;
    }
  } else {
    RETURN_IF_ERROR(ReadNames("target_modules", *targets, &config->target_names));
    if (config->target_names.empty() && !may_be_empty) return InvalidKey("target_modules", *targets, "names no module");
  }
  if (const Json* exclude = FindSet(json, "exclude_modules"); exclude != nullptr && !IsOff(*exclude)) {
    if (exclude->is_string()) {
      config->exclude_regex = exclude->get<std::string>();
    } else {
      RETURN_IF_ERROR(ReadNames("exclude_modules", *exclude, &config->exclude_names));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadLayers(const Json& json, PeftLoraConfig* config) {
  if (const Json* layers = FindSet(json, "layers_to_transform"); layers != nullptr) {
    const Json list = layers->is_array() ? *layers : Json::array({*layers});
    RETURN_IF_ERROR(CheckCount("layers_to_transform", list));
    std::vector<int64_t> numbers;
    for (const Json& layer : list) {
      if (!layer.is_number_integer()) {
        return InvalidKey("layers_to_transform", *layers, "must be a whole number or a list of them");
      }
      numbers.push_back(layer.get<int64_t>());
    }
    if (!numbers.empty()) config->layers = std::move(numbers);
  }
  if (const Json* pattern = FindSet(json, "layers_pattern"); pattern != nullptr && !IsOff(*pattern)) {
    if (!config->layers.has_value()) return InvalidKey("layers_pattern", *pattern, "needs layers_to_transform");
    if (pattern->is_string()) {
      config->layers_patterns.push_back(pattern->get<std::string>());
    } else {
      RETURN_IF_ERROR(ReadNames("layers_pattern", *pattern, &config->layers_patterns));
    }
  }
  if (config->layers.has_value() && config->target_regex.has_value()) {
    return InvalidKey("layers_to_transform", json["layers_to_transform"],
                      "cannot be used when target_modules is an expression; name the layers there");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ReadTokens(const char* key, const Json& list) {
  if (!list.is_array()) return InvalidKey(key, list, "must be a list of tokens");
  RETURN_IF_ERROR(CheckCount(key, list, kMaxTrainableTokens));
  std::vector<int32_t> tokens;
  for (const Json& token : list) {
    if (!token.is_number_integer() || token < 0 || token > std::numeric_limits<int32_t>::max()) {
      return InvalidKey(key, token, "must be a token, a whole number from 0");
    }
    tokens.push_back(token.get<int32_t>());
  }
  return tokens;
}

absl::Status ReadReplaced(const Json& json, PeftLoraConfig* config) {
  if (const Json* saved = FindSet(json, "modules_to_save"); saved != nullptr) {
    RETURN_IF_ERROR(ReadNames("modules_to_save", *saved, &config->modules_to_save));
  }
  const Json* tokens = FindSet(json, "trainable_token_indices");
  if (tokens == nullptr || IsOff(*tokens)) return absl::OkStatus();
  if (!tokens->is_object()) {
    ASSIGN_OR_RETURN(std::vector<int32_t> of_embedding, ReadTokens("trainable_token_indices", *tokens));
    config->trainable_tokens.emplace_back("", std::move(of_embedding));
    return absl::OkStatus();
  }
  for (const auto& [module, list] : tokens->items()) {
    ASSIGN_OR_RETURN(std::vector<int32_t> of_module, ReadTokens("trainable_token_indices", list));
    config->trainable_tokens.emplace_back(module, std::move(of_module));
  }
  return absl::OkStatus();
}

// PEFT refuses some of these together, and keeps the others active everywhere.
absl::Status ReadInvocation(const Json& json, PeftLoraConfig* config) {
  const Json* tokens = FindSet(json, "alora_invocation_tokens");
  if (tokens == nullptr || IsOff(*tokens)) return absl::OkStatus();
  RETURN_IF_ERROR(CheckCount("alora_invocation_tokens", *tokens, kMaxInvocationTokens));
  ASSIGN_OR_RETURN(config->invocation_tokens, ReadTokens("alora_invocation_tokens", *tokens));
  const std::pair<const char*, bool> others[] = {{"use_dora", config->use_dora},
                                                 {"bias", config->bias != PeftBias::kNone},
                                                 {"modules_to_save", !config->modules_to_save.empty()},
                                                 {"trainable_token_indices", !config->trainable_tokens.empty()},
                                                 {"use_bdlora", config->blocks > 1},
                                                 {"target_parameters", !config->target_parameters.empty()},
                                                 {"init_lora_weights", config->init != PeftInit::kKeepsBase}};
  for (const auto& [key, used] : others) {
    if (used) return UnsupportedKey("alora_invocation_tokens", *tokens, absl::StrCat("together with ", key));
  }
  return absl::OkStatus();
}

absl::Status ReadBlockDiagonal(const Json& json, PeftLoraConfig* config) {
  const Json* blocks = FindSet(json, "use_bdlora");
  if (blocks == nullptr || IsOff(*blocks)) return absl::OkStatus();
  if (!blocks->is_object()) return InvalidKey("use_bdlora", *blocks, "must be an object");
  if (config->use_dora) return UnsupportedKey("use_bdlora", *blocks, "together with use_dora");
  for (const auto& [key, value] : blocks->items()) {
    const std::string name = absl::StrCat("use_bdlora: ", Printable(key));
    const bool of_a = key == "target_modules_bd_a";
    if (of_a || key == "target_modules_bd_b") {
      if (value.is_null()) continue;
      RETURN_IF_ERROR(ReadNames(name.c_str(), value, of_a ? &config->block_diagonal_a : &config->block_diagonal_b));
    } else if (key == "nblocks") {
      ASSIGN_OR_RETURN(config->blocks, RankOf(name, value));
    } else if (key == "match_strict") {
      if (!value.is_boolean()) return InvalidKey(name, value, "must be true or false");
      config->blocks_strict = value.get<bool>();
    } else if (!IsOff(value)) {
      return UnsupportedKey(name, value, "an unknown key that is set may change the maths");
    }
  }
  if (!blocks->contains("match_strict")) config->blocks_strict = true;  // PEFT's default
  return absl::OkStatus();
}

absl::StatusOr<PeftInit> ReadInit(const Json& json) {
  const Json* init = FindSet(json, "init_lora_weights");
  if (init == nullptr || init->is_boolean()) return PeftInit::kKeepsBase;
  if (!init->is_string()) return InvalidKey("init_lora_weights", *init, "must be true, false or a name");
  const std::string& name = init->get_ref<const std::string&>();
  if (name == "pissa") return PeftInit::kPissa;
  if (name == "olora") return PeftInit::kOlora;
  for (const char* inert : {"gaussian", "orthogonal", "eva", "mica"}) {
    if (name == inert) return PeftInit::kKeepsBase;
  }
  // Randomised, or made of data that is not here.
  for (const char* changes_base : {"pissa", "corda", "lora_ga", "loftq"}) {
    if (name == changes_base || absl::StartsWith(name, absl::StrCat(changes_base, "_"))) {
      return UnsupportedKey(
          "init_lora_weights", *init,
          "this start changes the base's weights in a way that cannot be repeated; save the adapter "
          "again with PEFT's path_initial_model_for_weight_conversion, which makes it an ordinary LoRA");
    }
  }
  return UnsupportedKey("init_lora_weights", *init, "an unknown start may change the base's weights");
}

}  // namespace

bool PeftLoraConfig::Saves(const std::string& path) const {
  return std::any_of(modules_to_save.begin(), modules_to_save.end(),
                     [&](const std::string& end) { return absl::EndsWith(path, end); });
}

const std::vector<int32_t>* PeftLoraConfig::TokensOf(const std::string& path, bool is_embedding) const {
  for (const auto& [end, tokens] : trainable_tokens) {
    if (end.empty() ? is_embedding : absl::EndsWith(path, end)) return &tokens;
  }
  return nullptr;
}

absl::StatusOr<PeftLoraConfig> ParsePeftLoraConfig(const Json& json, const std::string& model_type) {
  RETURN_IF_ERROR(CheckPeftKeys(json));
  PeftLoraConfig config;
  ASSIGN_OR_RETURN(config.init, ReadInit(json));
  if (const Json* rank = FindSet(json, "r"); rank != nullptr) {
    ASSIGN_OR_RETURN(config.rank, RankOf("r", *rank));
  }
  if (const Json* alpha = FindSet(json, "lora_alpha"); alpha != nullptr) {
    ASSIGN_OR_RETURN(config.alpha, AlphaOf("lora_alpha", *alpha));
  }
  ASSIGN_OR_RETURN(config.use_rslora, ReadFlag(json, "use_rslora"));
  ASSIGN_OR_RETURN(config.use_dora, ReadFlag(json, "use_dora"));
  ASSIGN_OR_RETURN(config.lora_bias, ReadFlag(json, "lora_bias"));
  if (config.use_dora && config.lora_bias) {
    return InvalidKey("lora_bias", json["lora_bias"], "cannot be used with use_dora");
  }
  ASSIGN_OR_RETURN(config.bias, ReadBias(json));
  ASSIGN_OR_RETURN(config.ensure_weight_tying, ReadFlag(json, "ensure_weight_tying"));
  RETURN_IF_ERROR(ReadPattern<int64_t>(json, "rank_pattern", &RankOf, &config.rank_pattern));
  RETURN_IF_ERROR(ReadPattern<double>(json, "alpha_pattern", &AlphaOf, &config.alpha_pattern));
  RETURN_IF_ERROR(ReadTargets(json, model_type, &config));
  RETURN_IF_ERROR(ReadLayers(json, &config));
  RETURN_IF_ERROR(ReadReplaced(json, &config));
  RETURN_IF_ERROR(ReadBlockDiagonal(json, &config));
  RETURN_IF_ERROR(ReadInvocation(json, &config));
  return config;
}

}  // namespace lorad
