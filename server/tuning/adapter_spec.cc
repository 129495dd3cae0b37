#include "server/tuning/adapter_spec.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "model/base/status_macros.h"
#include "server/tuning/field_limits.h"
#include "server/tuning/routed_spec.h"

namespace lorad {
namespace {

constexpr double kMinAlpha = 1e-6, kMaxAlpha = 1e6;

absl::Status RefuseOfAdapter(const v1::AdapterSpec& spec) {
  if (!spec.kind().empty() && spec.kind() != "lora" && spec.kind() != "dora" && !IsRoutedKind(spec.kind())) {
    return Limit("adapter.kind", spec.kind().substr(0, 40),
                 "lora, dora, mixlora, mixlora_dynamic, mixlora_switch, loramoe, mola");
  }
  // Each costs a look at every module of the base.
  constexpr auto kMost = static_cast<int64_t>(kMaxConfigEntries);
  RETURN_IF_ERROR(CheckCount("adapter.targets", spec.targets_size(), 0, kMost));
  RETURN_IF_ERROR(CheckCount("adapter.layers", spec.layers_size(), 0, kMost));
  RETURN_IF_ERROR(CheckCount("adapter.rank_pattern", static_cast<int64_t>(spec.rank_pattern_size()), 0, kMost));
  RETURN_IF_ERROR(CheckCount("adapter.alpha_pattern", static_cast<int64_t>(spec.alpha_pattern_size()), 0, kMost));
  return CheckRoutedFields(spec);
}

absl::Status TranslateTargets(const v1::AdapterSpec& spec, PeftLoraConfig* config) {
  config->target_names.assign(spec.targets().begin(), spec.targets().end());
  config->all_linear =
      config->target_names.empty() || (config->target_names.size() == 1 && config->target_names[0] == "all-linear");
  if (config->all_linear) config->target_names.clear();
  if (spec.layers_size() == 0) return absl::OkStatus();
  if (config->all_linear) return Limit("adapter.layers", "with all-linear", "only with adapter.targets by name");
  config->layers.emplace(spec.layers().begin(), spec.layers().end());
  return absl::OkStatus();
}

// `module`: the end of its path, "" is the embedding.
absl::Status AddTokens(absl::string_view field, const google::protobuf::RepeatedField<uint32_t>& ids,
                       const char* module, PeftLoraConfig* config) {
  if (ids.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckCount(field, ids.size(), 0, static_cast<int64_t>(kMaxTrainableTokens)));
  std::vector<int32_t>& tokens = config->trainable_tokens.emplace_back(module, std::vector<int32_t>()).second;
  for (const uint32_t id : ids) {
    RETURN_IF_ERROR(CheckCount(field, id, 0, std::numeric_limits<int32_t>::max()));
    tokens.push_back(static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

// Which of them the base has is SelectTrained's to say.
absl::Status TranslateReplaced(const v1::AdapterSpec& spec, PeftLoraConfig* config) {
  constexpr auto kMostModules = static_cast<int64_t>(kMaxConfigEntries);
  RETURN_IF_ERROR(CheckCount("adapter.modules_to_save", spec.modules_to_save_size(), 0, kMostModules));
  config->modules_to_save.assign(spec.modules_to_save().begin(), spec.modules_to_save().end());
  RETURN_IF_ERROR(AddTokens("adapter.trainable_token_ids", spec.trainable_token_ids(), "", config));
  return AddTokens("adapter.trainable_head_token_ids", spec.trainable_head_token_ids(), "lm_head", config);
}

// A map has no order, so the patterns are tried by name, as peft does with what it saved.
absl::Status TranslatePatterns(const v1::AdapterSpec& spec, int64_t max_rank, PeftLoraConfig* config) {
  for (const auto& [key, rank] : spec.rank_pattern()) {
    RETURN_IF_ERROR(CheckCount("adapter.rank_pattern", rank, 1, max_rank));
    config->rank_pattern.emplace_back(key, rank);
  }
  for (const auto& [key, alpha] : spec.alpha_pattern()) {
    RETURN_IF_ERROR(CheckReal("adapter.alpha_pattern", alpha, kMinAlpha, kMaxAlpha));
    config->alpha_pattern.emplace_back(key, alpha);
  }
  std::sort(config->rank_pattern.begin(), config->rank_pattern.end());
  std::sort(config->alpha_pattern.begin(), config->alpha_pattern.end());
  return absl::OkStatus();
}

}  // namespace

absl::Status TranslateAdapter(const v1::AdapterSpec& spec, TrainConfig* train) {
  RETURN_IF_ERROR(RefuseOfAdapter(spec));
  PeftLoraConfig& config = train->adapter;
  config.use_dora = spec.kind() == "dora";
  config.use_rslora = spec.use_rslora();
  config.rank = spec.has_rank() ? spec.rank() : 16;
  config.alpha = spec.has_alpha() ? spec.alpha() : 2.0 * static_cast<double>(config.rank);
  train->dropout = spec.dropout();
  RETURN_IF_ERROR(CheckReal("adapter.dropout", train->dropout, 0.0, 0.95));
  if (spec.init() == "gaussian") {
    train->init = LeafInit::kGaussian;
  } else if (spec.init() == "pissa" || spec.init() == "olora") {
    train->init = spec.init() == "pissa" ? LeafInit::kPissa : LeafInit::kOlora;
  } else if (!spec.init().empty() && spec.init() != "default") {
    return Limit("adapter.init", spec.init().substr(0, 40), "default, gaussian, pissa, olora");
  }
  // What takes a pair off the base is saved with it beside each.
  const int64_t max_rank = TakesOffBase(train->init) ? kMaxConfigRank / 2 : kMaxConfigRank;
  RETURN_IF_ERROR(CheckCount("adapter.rank", config.rank, 1, max_rank));
  RETURN_IF_ERROR(CheckReal("adapter.alpha", config.alpha, kMinAlpha, kMaxAlpha));
  if (spec.bias() == "all" || spec.bias() == "lora_only") {
    config.bias = spec.bias() == "all" ? PeftBias::kAll : PeftBias::kLoraOnly;
  } else if (!spec.bias().empty() && spec.bias() != "none") {
    return Limit("adapter.bias", spec.bias().substr(0, 40), "none, all, lora_only");
  }
  if (IsRoutedKind(spec.kind())) return TranslateRouted(spec, train);
  RETURN_IF_ERROR(TranslatePatterns(spec, max_rank, &config));
  RETURN_IF_ERROR(TranslateReplaced(spec, &config));
  return TranslateTargets(spec, &config);
}

}  // namespace lorad
