#include "adapters/kinds/peft_facts.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "adapters/config_text.h"

namespace lorad {
namespace {

using Json = nlohmann::ordered_json;

// The value that most have, so that patterns name the fewest.
template <typename T>
T MostCommon(const std::map<std::string, T>& values) {
  std::map<T, int64_t> counts;
  for (const auto& [name, value] : values) ++counts[value];
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == counts.end() ? T(1) : most->first;
}

template <typename T>
Json PatternOf(const std::map<std::string, T>& values, T common) {
  Json pattern = Json::object();
  for (const auto& [name, value] : values) {
    if (value != common) pattern[name] = value;
  }
  return pattern;
}

template <typename Values>
Json OrNull(const Values& values) {
  return values.empty() ? Json() : Json(values);
}

}  // namespace

const char* Name(PeftBias bias) {
  switch (bias) {
    case PeftBias::kNone:
      return "none";
    case PeftBias::kLoraOnly:
      return "lora_only";
    case PeftBias::kAll:
      return "all";
  }
  return "";
}

std::string ConfigTextOf(const PeftFacts& facts) {
  const int64_t rank = MostCommon(facts.ranks);
  const double alpha = MostCommon(facts.alphas);
  const Json config = {{"alora_invocation_tokens", OrNull(facts.invocation_tokens)},
                       {"alpha_pattern", PatternOf(facts.alphas, alpha)},
                       {"base_model_name_or_path", nullptr},
                       {"bias", Name(facts.bias)},
                       {"fan_in_fan_out", false},
                       {"inference_mode", true},
                       {"init_lora_weights", true},
                       {"lora_alpha", alpha},
                       {"lora_bias", facts.lora_bias},
                       {"lora_dropout", 0.0},
                       {"modules_to_save", OrNull(facts.saved)},
                       {"peft_type", "LORA"},
                       {"r", rank},
                       {"rank_pattern", PatternOf(facts.ranks, rank)},
                       {"target_modules", facts.modules},
                       {"target_parameters", OrNull(facts.parameters)},
                       {"task_type", facts.classifies ? "SEQ_CLS" : "CAUSAL_LM"},
                       {"trainable_token_indices", OrNull(facts.tokens)},
                       {"use_dora", facts.dora},
                       {"use_rslora", false}};
  return ConfigText(config);
}

}  // namespace lorad
