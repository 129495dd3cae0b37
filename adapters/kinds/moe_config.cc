#include "adapters/kinds/moe_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "adapters/kinds/adapter_file.h"
#include "adapters/kinds/config_keys.h"
#include "adapters/kinds/moe_names.h"
#include "adapters/kinds/peft_config.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

using Json = AdapterConfigJson;

// Parsed below, or words, or only of use in training.
constexpr absl::string_view kKnownKeys[] = {
    "peft_type", "routing_strategy", "r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "expert_lora",
    "num_experts", "act_fn", "top_k", "top_p", "temperature", "expert_capacity", "bias",
    // Without an effect on an answer.
    "lora_dropout", "lora_init", "router_loss", "router_aux_loss_coef", "router_init_range", "router_z_loss_coef",
    "jitter_noise", "ffn_dropout", "sparse_step", "name", "task_name", "task_type", "base_model_name_or_path"};

constexpr MoeStrategy kStrategies[] = {{"mixlora", MoeKind::kMixLora, "mixlora", "mixlora"},
                                       {"mixtral", MoeKind::kMixLora, "mixlora", "mixlora"},
                                       {"mixlora-dynamic", MoeKind::kMixLora, "mixlora-dynamic", "mixlora"},
                                       {"mixlora-switch", MoeKind::kMixLora, "mixlora-switch", "mixlora"},
                                       {"loramoe", MoeKind::kLoraMoe, "loramoe", "loramoe"},
                                       {"mola", MoeKind::kMola, "mola", "mola"}};

absl::StatusOr<int64_t> Whole(const Json& json, absl::string_view key, int64_t absent, int64_t limit) {
  const Json* value = FindSet(json, key);
  const std::string rule = absl::StrCat("must be a whole number; limit: 1..", limit);
  if (value == nullptr) {
    if (absent > 0 && absent <= limit) return absent;
    const std::string instead = absent > 0 ? absl::StrCat("missing, which means ", absent) : "missing";
    return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: ", key, ": ", instead, "; ", rule));
  }
  const bool huge = value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(limit);
  if (!value->is_number_integer() || huge || value->get<int64_t>() < 1 || value->get<int64_t>() > limit) {
    return InvalidKey(key, *value, rule);
  }
  return value->get<int64_t>();
}

absl::StatusOr<double> Number(const Json& json, absl::string_view key, double absent, double least, double most) {
  const Json* value = FindSet(json, key);
  if (value == nullptr) return absent;
  if (!value->is_number() || !(value->get<double>() >= least) || !(value->get<double>() <= most)) {
    return InvalidKey(key, *value, absl::StrCat("limit: ", least, "..", most));
  }
  return value->get<double>();
}

absl::StatusOr<std::string> Text(const Json& json, absl::string_view key) {
  const Json* value = FindSet(json, key);
  if (value == nullptr) return std::string();
  if (!value->is_string()) return InvalidKey(key, *value, "must be a string");
  return value->get<std::string>();
}

absl::StatusOr<MoeRank> ReadRank(const Json& json) {
  constexpr double kMostAlpha = std::numeric_limits<float>::max();
  MoeRank rank;
  ASSIGN_OR_RETURN(rank.rank, Whole(json, "r", /*absent=*/0, kMaxConfigRank));
  if (FindSet(json, "lora_alpha") == nullptr) {
    return absl::InvalidArgumentError("adapter_config.json: lora_alpha: missing");
  }
  ASSIGN_OR_RETURN(const double alpha, Number(json, "lora_alpha", 0, -kMostAlpha, kMostAlpha));
  ASSIGN_OR_RETURN(const bool rslora, ReadFlag(json, "use_rslora"));
  const auto r = static_cast<double>(rank.rank);
  rank.scale = static_cast<float>(alpha / (rslora ? std::sqrt(r) : r));
  return rank;
}

// expert_lora holds what differs from the configuration around it.
absl::Status ReadRanks(const Json& json, MoeConfig* config) {
  ASSIGN_OR_RETURN(config->lora, ReadRank(json));
  config->expert = config->lora;
  Json merged = json;
  if (const Json* own = FindSet(json, "expert_lora"); own != nullptr) {
    if (config->kind != MoeKind::kMixLora) {
      return InvalidKey("expert_lora", *own, absl::StrCat("does not belong to ", config->name));
    }
    if (!own->is_object()) return InvalidKey("expert_lora", *own, "must be an object");
    for (const auto& [key, value] : own->items()) {
      constexpr absl::string_view kOwn[] = {"r",        "lora_alpha", "lora_dropout", "lora_init",
                                            "use_dora", "use_rslora", "bias"};
      if (std::find(std::begin(kOwn), std::end(kOwn), key) == std::end(kOwn) && !value.is_null()) {
        return UnsupportedKey(absl::StrCat("expert_lora: ", Printable(key)), value, "an unknown key that is set");
      }
      merged[key] = value;
    }
    ASSIGN_OR_RETURN(config->expert, ReadRank(merged));
  }
  ASSIGN_OR_RETURN(config->lora.dora, ReadFlag(json, "use_dora"));
  ASSIGN_OR_RETURN(config->expert.dora, ReadFlag(merged, "use_dora"));
  return absl::OkStatus();
}

// A list of names, or names with true or false.
absl::Status ReadTargets(const Json& json, MoeConfig* config) {
  const Json* targets = FindSet(json, "target_modules");
  if (targets == nullptr) return absl::InvalidArgumentError("adapter_config.json: target_modules: missing");
  const std::string rule =
      absl::StrCat("must be at most ", kMaxConfigEntries, " names, as a list or with true or false");
  if (!targets->is_structured() || targets->size() > kMaxConfigEntries)
    return InvalidKey("target_modules", *targets, rule);
  for (const auto& [key, value] : targets->items()) {
    const bool listed = targets->is_array();
    if (listed ? !value.is_string() : !value.is_boolean()) return InvalidKey("target_modules", *targets, rule);
    if (listed) {
      config->targets.push_back(value.get<std::string>());
    } else if (value.get<bool>()) {
      config->targets.push_back(key);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadRouting(const Json& json, MoeConfig* config) {
  ASSIGN_OR_RETURN(const int64_t experts, Whole(json, "num_experts", /*absent=*/0, kMaxMoeExperts));
  config->experts = static_cast<int32_t>(experts);
  RoutingRule& rule = config->routing;
  rule.choice = RoutingRule::Choice::kTopK;
  if (config->name == "mixlora-dynamic") {
    rule.choice = RoutingRule::Choice::kTopP;
    ASSIGN_OR_RETURN(const double top_p, Number(json, "top_p", kDefaultTopP, 0.0, 1.0));
    ASSIGN_OR_RETURN(const double temperature, Number(json, "temperature", 0.0, 0.0, kMaxRouterTemperature));
    rule.top_p = static_cast<float>(top_p);
    rule.temperature = static_cast<float>(temperature);
  } else if (config->name == "mixlora-switch") {
    rule.top_k = 1;
    ASSIGN_OR_RETURN(const int64_t capacity, Whole(json, "expert_capacity", kDefaultExpertCapacity, INT32_MAX));
    config->warnings.push_back(absl::StrCat("expert_capacity: ", capacity,
                                            "; a limit of training batches: every row goes through its expert"));
  } else if (config->kind == MoeKind::kLoraMoe) {
    rule.top_k = config->experts;
  } else {
    ASSIGN_OR_RETURN(const int64_t top_k, Whole(json, "top_k", kDefaultTopK, experts));
    rule.top_k = static_cast<int32_t>(top_k);
    rule.renormalise = true;
  }
  if (config->kind != MoeKind::kMixLora) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string activation, Text(json, "act_fn"));
  if (activation.empty()) return absl::OkStatus();
  rule.activation = ActivationNamed(activation);
  if (rule.activation.has_value()) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(SaidOfKey("act_fn", json["act_fn"]), "not supported yet; ", kActivationNames, " are"));
}

absl::Status CheckKeys(const Json& json) {
  for (const auto& [key, value] : json.items()) {
    const bool is_off = value.is_null() || value == false || (value.is_structured() && value.empty());
    if (is_off || std::find(std::begin(kKnownKeys), std::end(kKnownKeys), key) != std::end(kKnownKeys)) continue;
    return UnsupportedKey(Printable(key), value, "an unknown key that is set may change the maths");
  }
  ASSIGN_OR_RETURN(const std::string bias, Text(json, "bias"));
  if (!bias.empty() && bias != "none") {
    return absl::UnimplementedError(absl::StrCat(SaidOfKey("bias", json["bias"]), "MoE-PEFT has no biases"));
  }
  ASSIGN_OR_RETURN(const std::string task, Text(json, "task_type"));
  if (!task.empty() && task != "CAUSAL_LM") {
    return UnsupportedKey("task_type", json["task_type"], "its head");
  }
  return absl::OkStatus();
}

// peft_type decides, routing_strategy where it is absent; those of LORAMOE and MOLA may leave the strategy out.
absl::StatusOr<MoeStrategy> FindStrategy(const Json& json) {
  ASSIGN_OR_RETURN(const std::string type, Text(json, "peft_type"));
  ASSIGN_OR_RETURN(const std::string written, Text(json, "routing_strategy"));
  for (const MoeStrategy& strategy : kStrategies) {
    const bool types_agree = type.empty() || type == MoePeftType(strategy.kind);
    const bool may_be_absent = strategy.kind != MoeKind::kMixLora && !type.empty();
    if (types_agree && (written == strategy.written || (written.empty() && may_be_absent))) return strategy;
  }
  const auto said = json.find("routing_strategy");
  return absl::InvalidArgumentError(absl::StrCat(SaidOfKey("routing_strategy", said == json.end() ? Json() : *said),
                                                 "not one of peft_type: ", Printable(type)));
}

}  // namespace

bool HasExperts(MoeKind kind, Site projection) { return IsOfFfn(projection) || kind == MoeKind::kMola; }

const char* MoePeftType(MoeKind kind) {
  switch (kind) {
    case MoeKind::kMixLora:
      return "MIXLORA";
    case MoeKind::kLoraMoe:
      return "LORAMOE";
    case MoeKind::kMola:
      return "MOLA";
  }
  return "";
}

const MoeStrategy* FindMoeStrategy(absl::string_view name) {
  const auto* found = std::find_if(std::begin(kStrategies), std::end(kStrategies),
                                   [&](const MoeStrategy& strategy) { return strategy.written == name; });
  return found == std::end(kStrategies) ? nullptr : found;
}

bool IsMoeConfig(const Json& json) {
  const auto is = [&](const char* key, absl::string_view value) {
    const Json* found = FindSet(json, key);
    return found != nullptr && found->is_string() && found->get_ref<const std::string&>() == value;
  };
  const bool typed = FindSet(json, "peft_type") != nullptr;
  return std::any_of(std::begin(kStrategies), std::end(kStrategies), [&](const MoeStrategy& strategy) {
    return typed ? is("peft_type", MoePeftType(strategy.kind)) : is("routing_strategy", strategy.written);
  });
}

absl::StatusOr<MoeConfig> ParseMoeConfig(const Json& json) {
  RETURN_IF_ERROR(CheckKeys(json));
  ASSIGN_OR_RETURN(const MoeStrategy strategy, FindStrategy(json));
  MoeConfig config;
  config.kind = strategy.kind;
  config.name = strategy.name;
  config.prefix = strategy.prefix;
  RETURN_IF_ERROR(ReadRanks(json, &config));
  RETURN_IF_ERROR(ReadTargets(json, &config));
  RETURN_IF_ERROR(ReadRouting(json, &config));
  return config;
}

}  // namespace lorad
