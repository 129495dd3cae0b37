#include "adapters/kinds/peft_targets.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/kinds/config_expression.h"
#include "adapters/kinds/peft_experts.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

constexpr char kWrapped[] = ".base_layer";

bool NameMatches(const std::string& path, const std::string& name) {
  return path == name || absl::EndsWith(path, absl::StrCat(".", name));
}

bool AnyNameMatches(const std::string& path, const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return NameMatches(path, name); });
}

// The layer that an expression finds in a path, or -1.
int64_t LayerOf(const std::string& path, const std::vector<ConfigExpression>& layer_of) {
  for (const ConfigExpression& regex : layer_of) {
    const int group = regex->NamedCapturingGroups().at("idx");
    std::vector<re2::StringPiece> groups(static_cast<size_t>(group) + 1);
    if (!regex->Match(path, 0, path.size(), RE2::ANCHOR_START, groups.data(), group + 1)) continue;
    int64_t layer = -1;
    return absl::SimpleAtoi(groups[static_cast<size_t>(group)].as_string(), &layer) ? layer : -1;
  }
  return -1;
}

// The modules of a site, by path.
std::vector<std::pair<std::string, TargetedModule>> ModulesOf(const SiteShape& shape, int64_t num_layers) {
  if (!shape.per_layer) return {{shape.module_path, {.shape = &shape}}};
  std::vector<int32_t> layers = shape.layers;
  if (layers.empty()) {
    layers.resize(static_cast<size_t>(num_layers));
    std::iota(layers.begin(), layers.end(), 0);
  }
  std::vector<std::pair<std::string, TargetedModule>> modules;
  for (const int32_t layer : layers) {
    modules.push_back(
        {absl::StrReplaceAll(shape.module_path, {{"{}", absl::StrCat(layer)}}), {.shape = &shape, .layer = layer}});
  }
  return modules;
}

// One config's expressions, compiled.
class Selection final {
 public:
  static absl::StatusOr<Selection> Make(const PeftLoraConfig& config) {
    Selection selection(config);
    if (config.target_regex.has_value()) {
      ASSIGN_OR_RETURN(selection.target_, CompileConfigExpression("target_modules", *config.target_regex, "$0"));
    }
    if (config.exclude_regex.has_value()) {
      ASSIGN_OR_RETURN(selection.exclude_, CompileConfigExpression("exclude_modules", *config.exclude_regex, "$0"));
    }
    for (const std::string& pattern : config.layers_patterns) {
      ASSIGN_OR_RETURN(ConfigExpression regex,
                       CompileConfigExpression("layers_pattern", pattern, R"((?:^|.*?\.)$0\.(?P<idx>\d+)\.)"));
      if (!regex->NamedCapturingGroups().contains("idx")) {
        return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: layers_pattern: ", Printable(pattern)));
      }
      selection.layer_of_.push_back(std::move(regex));
    }
    if (selection.layer_of_.empty()) {
      ASSIGN_OR_RETURN(ConfigExpression regex,
                       CompileConfigExpression("layers_pattern", "", R"(.*?\.[^.]*\.(?P<idx>\d+)\.)"));
      selection.layer_of_.push_back(std::move(regex));
    }
    return selection;
  }

  bool Excludes(const std::string& path) const {
    for (const std::string& saved : config_.modules_to_save) {
      if (NameMatches(path, saved)) return true;
    }
    if (exclude_ != nullptr) return RE2::FullMatch(path, *exclude_);
    return AnyNameMatches(path, config_.exclude_names);
  }

  bool Targets(const std::string& path, Site site) const {
    if (IsNorm(site)) return false;
    if (config_.all_linear) return site != Site::kEmbedTokens && site != Site::kLmHead;
    if (target_ != nullptr) return RE2::FullMatch(path, *target_);
    const std::vector<std::string>& names = config_.target_names;
    // A whole path is meant, whatever its layer.
    if (std::find(names.begin(), names.end(), path) != names.end()) return true;
    if (!AnyNameMatches(path, names)) return false;
    if (!config_.layers.has_value()) return true;
    const int64_t layer = LayerOf(path, layer_of_);
    return layer >= 0 && std::find(config_.layers->begin(), config_.layers->end(), layer) != config_.layers->end();
  }

 private:
  explicit Selection(const PeftLoraConfig& config) : config_(config) {}
  const PeftLoraConfig& config_;
  ConfigExpression target_;
  ConfigExpression exclude_;
  std::vector<ConfigExpression> layer_of_;
};

// Rank and scale of each target.
class Scales final {
 public:
  static absl::StatusOr<Scales> Make(const PeftLoraConfig& config) {
    ASSIGN_OR_RETURN(ExpressionTable<int64_t> ranks,
                     ExpressionTable<int64_t>::Make("rank_pattern", config.rank_pattern));
    ASSIGN_OR_RETURN(ExpressionTable<double> alphas,
                     ExpressionTable<double>::Make("alpha_pattern", config.alpha_pattern));
    return Scales(config, std::move(ranks), std::move(alphas));
  }
  void Put(const std::string& name, TargetedModule* target) const {
    target->rank = ranks_.ValueFor(name, config_.rank);
    const double rank = static_cast<double>(target->rank);
    const double divisor = config_.use_rslora ? std::sqrt(rank) : rank;
    target->scale = static_cast<float>(alphas_.ValueFor(name, config_.alpha) / divisor);
    // A decomposition of the base's weight has no more rows than that; the scale is of the rank that was asked for.
    if (config_.init != PeftInit::kKeepsBase) {
      target->rank = std::min({target->rank, target->shape->in_features, target->shape->out_features});
    }
  }

 private:
  Scales(const PeftLoraConfig& config, ExpressionTable<int64_t> ranks, ExpressionTable<double> alphas)
      : config_(config), ranks_(std::move(ranks)), alphas_(std::move(alphas)) {}

  const PeftLoraConfig& config_;
  ExpressionTable<int64_t> ranks_;
  ExpressionTable<double> alphas_;
};

// A weight that target_parameters can name.
struct Parameter {
  std::string name;    // "model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.self_attn.q_proj.weight"
  std::string module;  // "model.layers.0.mlp.experts"
  TargetedModule target;
};

std::vector<Parameter> AllParameters(const BaseShape& base) {
  std::vector<Parameter> parameters;
  for (const SiteShape& shape : base.sites) {
    if (!shape.per_layer) continue;  // PEFT would wrap the embedding or the head as a bare weight
    if (IsNorm(shape.site)) continue;
    const std::string suffix = absl::StrCat(".", shape.parameter.empty() ? "weight" : shape.parameter);
    for (auto& [path, target] : ModulesOf(shape, base.num_layers)) {
      parameters.push_back({absl::StrCat(path, suffix), path, target});
    }
  }
  return parameters;
}

// The parameters that the config names, in the order in which PEFT wraps those of one module.
absl::StatusOr<std::vector<Parameter>> SelectParameters(const PeftLoraConfig& config, const BaseShape& base) {
  std::vector<Parameter> parameters = AllParameters(base);
  for (const std::string& name : config.target_parameters) {
    const bool matches = std::any_of(parameters.begin(), parameters.end(),
                                     [&](const Parameter& p) { return NameMatches(p.name, name); });
    if (!matches) {
      return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: target_parameters: ", Printable(name),
                                                     "; matches no weight of the base's layers that takes LoRA"));
    }
  }
  std::erase_if(parameters, [&](const Parameter& p) { return !AnyNameMatches(p.name, config.target_parameters); });
  return parameters;
}

absl::Status CheckEveryNameMatches(const PeftLoraConfig& config, const std::map<std::string, TargetedModule>& modules) {
  for (const std::string& name : config.target_names) {
    const bool matches = std::any_of(modules.begin(), modules.end(), [&](const auto& module) {
      return !IsNorm(module.second.shape->site) && NameMatches(module.first, name);
    });
    // PEFT leaves a name among the modules that it has resolved to a parameter.
    const std::vector<std::string>& parameters = config.target_parameters;
    if (!matches && std::find(parameters.begin(), parameters.end(), name) == parameters.end()) {
      return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: target_modules: ", Printable(name),
                                                     "; matches no module of the base that takes LoRA"));
    }
  }
  return absl::OkStatus();
}

// A module with one of the parameters is no target besides; of two parameters of one module the first is wrapped twice.
absl::Status AddParameters(const std::vector<Parameter>& parameters, const Scales& scales,
                           std::map<std::string, TargetedModule>* targets) {
  const std::map<std::string, TargetedModule> modules = *targets;
  for (auto parameter = parameters.begin(); parameter != parameters.end(); ++parameter) {
    const std::string& module = parameter->module;
    if (modules.contains(module)) {
      return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: target_parameters: ", parameter->name,
                                                     "; target_modules include the module as well"));
    }
    const bool wrapped =
        std::any_of(parameter + 1, parameters.end(), [&](const Parameter& other) { return other.module == module; });
    TargetedModule& target = (*targets)[absl::StrCat(module, wrapped ? kWrapped : "")];
    target = parameter->target;
    scales.Put(parameter->name, &target);
  }
  return absl::OkStatus();
}

// BD-LoRA's lists name parts of a module's own name.
absl::Status PutBlocks(const PeftLoraConfig& config, const std::string& path, TargetedModule* target) {
  if (config.blocks == 1 && !config.blocks_strict) return absl::OkStatus();
  const std::string name = path.substr(path.rfind('.') + 1);
  const auto named_by = [&](const std::vector<std::string>& parts) {
    return std::any_of(parts.begin(), parts.end(),
                       [&](const std::string& part) { return absl::StrContains(name, part); });
  };
  const bool of_a = named_by(config.block_diagonal_a), of_b = named_by(config.block_diagonal_b);
  if ((of_a && of_b) || (config.blocks_strict && !of_a && !of_b)) {
    return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: use_bdlora: ", Printable(path), " is in ",
                                                   of_a ? "both" : "neither",
                                                   " of target_modules_bd_a and target_modules_bd_b"));
  }
  const SiteShape& shape = *target->shape;
  const int64_t divided = of_a ? shape.in_features : shape.out_features;
  if ((of_a || of_b) && (divided % config.blocks != 0 || target->rank % config.blocks != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: use_bdlora: nblocks: ", config.blocks,
                                                   "; must divide the rank: ", target->rank, " and the width of ",
                                                   Printable(path), ": ", divided));
  }
  if (of_a) target->a_blocks = config.blocks;
  if (of_b) target->b_blocks = config.blocks;
  return absl::OkStatus();
}

// ensure_weight_tying on a tied base: what is put on one of embedding and head is put on the other too.
void TieTargets(const std::map<std::string, TargetedModule>& modules, std::map<std::string, TargetedModule>* targets) {
  const auto is_tied = [](const auto& module) {
    return module.second.shape->site == Site::kEmbedTokens || module.second.shape->site == Site::kLmHead;
  };
  if (std::none_of(targets->begin(), targets->end(), is_tied)) return;
  std::copy_if(modules.begin(), modules.end(), std::inserter(*targets, targets->end()), is_tied);
}

}  // namespace

std::map<std::string, TargetedModule> AllModules(const BaseShape& base) {
  std::map<std::string, TargetedModule> modules;
  for (const SiteShape& shape : base.sites) {
    if (!shape.parameter.empty()) continue;  // no module
    for (auto& [path, target] : ModulesOf(shape, base.num_layers)) modules[path] = target;
  }
  return modules;
}

std::map<std::string, TargetedModule> AllModulesAnd(const std::map<std::string, TargetedModule>& targets,
                                                    const BaseShape& base) {
  std::map<std::string, TargetedModule> modules = targets;
  modules.merge(AllModules(base));
  return modules;
}

absl::StatusOr<std::map<std::string, TargetedModule>> SelectTargets(const PeftLoraConfig& written,
                                                                    const BaseShape& base) {
  ASSIGN_OR_RETURN(const PeftLoraConfig config, ConvertExpertTargets(written, base));
  const std::map<std::string, TargetedModule> modules = AllModules(base);
  RETURN_IF_ERROR(CheckEveryNameMatches(config, modules));
  ASSIGN_OR_RETURN(const std::vector<Parameter> parameters, SelectParameters(config, base));
  if (!parameters.empty() && (config.use_dora || config.lora_bias)) {
    return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: target_parameters: ", parameters[0].name,
                                                   "; cannot be used with ",
                                                   config.use_dora ? "use_dora" : "lora_bias"));
  }
  ASSIGN_OR_RETURN(const Selection selection, Selection::Make(config));
  ASSIGN_OR_RETURN(const Scales scales, Scales::Make(config));

  std::map<std::string, TargetedModule> targets;
  for (const auto& [path, module] : modules) {
    if (!selection.Excludes(path) && selection.Targets(path, module.shape->site)) targets[path] = module;
  }
  if (config.ensure_weight_tying && base.tied_embeddings) TieTargets(modules, &targets);
  for (auto& [path, target] : targets) {
    scales.Put(path, &target);
    RETURN_IF_ERROR(PutBlocks(config, path, &target));
  }
  RETURN_IF_ERROR(AddParameters(parameters, scales, &targets));
  if (targets.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: target_modules",
                                                   config.target_regex.has_value() ? ": " : "",
                                                   Printable(config.target_regex.value_or("")),
                                                   "; matches no module of the base, or all that match are excluded"));
  }
  return targets;
}

}  // namespace lorad
