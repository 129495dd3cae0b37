#include "server/tuning/tuning_spec.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/names.h"
#include "model/base/status_macros.h"
#include "server/tuning/routed_spec.h"

namespace lorad {
namespace {

constexpr int64_t kMaxSteps = 10'000'000;
constexpr int64_t kMaxBatch = 4096;
constexpr int64_t kDefaultMaxLengthTokens = 2048;
constexpr int64_t kMaxMicroBatchByDefault = 4;
constexpr int64_t kMaxEvalPrompts = 16;
constexpr double kMinAlpha = 1e-6, kMaxAlpha = 1e6;

absl::Status Limit(absl::string_view field, const std::string& value, absl::string_view limit) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, "; limit: ", limit));
}

absl::Status NotSupported(absl::string_view field) {
  return absl::UnimplementedError(absl::StrCat(field, ": not supported in this version; leave it out"));
}

struct Refusal {
  bool set;
  absl::string_view field;
};

template <size_t kCount>
absl::Status RefuseSet(const Refusal (&fields)[kCount]) {
  for (const Refusal& field : fields) {
    if (field.set) return NotSupported(field.field);
  }
  return absl::OkStatus();
}

absl::Status CheckReal(absl::string_view field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return Limit(field, absl::StrCat(value), absl::StrCat(low, " to ", high));
}

absl::Status CheckCount(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Limit(field, absl::StrCat(value), absl::StrCat(low, " to ", high));
}

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

absl::Status TranslateOptimizer(const v1::OptimizerSpec& spec, const ModelFacts& model, OptimizerConfig* config) {
  if (spec.name() == "sgd") {
    config->kind = OptimizerKind::kSgd;
    if (!spec.has_learning_rate()) return Limit("optimizer.learning_rate", "unset", "a number: sgd has no default");
    RETURN_IF_ERROR(RefuseSet({{spec.has_beta1(), "optimizer.beta1 with sgd"},
                               {spec.has_beta2(), "optimizer.beta2 with sgd"},
                               {spec.has_epsilon(), "optimizer.epsilon with sgd"}}));
  } else if (!spec.name().empty() && spec.name() != "adamw") {
    return Limit("optimizer.name", spec.name().substr(0, 40), "adamw, sgd");
  } else if (spec.has_momentum()) {
    return NotSupported("optimizer.momentum with adamw");
  }
  const auto or_default = [](bool has, double value, double otherwise) { return has ? value : otherwise; };
  config->learning_rate = or_default(spec.has_learning_rate(), spec.learning_rate(), DefaultLearningRate(model));
  config->beta1 = or_default(spec.has_beta1(), spec.beta1(), config->beta1);
  config->beta2 = or_default(spec.has_beta2(), spec.beta2(), config->beta2);
  config->epsilon = or_default(spec.has_epsilon(), spec.epsilon(), config->epsilon);
  config->weight_decay = or_default(spec.has_weight_decay(), spec.weight_decay(), config->weight_decay);
  config->max_grad_norm = or_default(spec.has_max_grad_norm(), spec.max_grad_norm(), config->max_grad_norm);
  config->momentum = or_default(spec.has_momentum(), spec.momentum(), config->momentum);
  if (spec.has_lora_plus_ratio()) config->lora_plus_ratio = spec.lora_plus_ratio();
  RETURN_IF_ERROR(CheckReal("optimizer.learning_rate", config->learning_rate, 0.0, 100.0));
  RETURN_IF_ERROR(CheckReal("optimizer.beta1", config->beta1, 0.0, 0.999999));
  RETURN_IF_ERROR(CheckReal("optimizer.beta2", config->beta2, 0.0, 0.999999));
  RETURN_IF_ERROR(CheckReal("optimizer.epsilon", config->epsilon, 1e-30, 1.0));
  RETURN_IF_ERROR(CheckReal("optimizer.weight_decay", config->weight_decay, 0.0, 10.0));
  RETURN_IF_ERROR(CheckReal("optimizer.max_grad_norm", config->max_grad_norm, 0.0, 1e9));
  RETURN_IF_ERROR(CheckReal("optimizer.momentum", config->momentum, 0.0, 0.999999));
  return CheckReal("optimizer.lora_plus_ratio", config->lora_plus_ratio.value_or(1.0), 1e-3, 1e3);
}

absl::Status TranslateSchedule(const v1::ScheduleSpec& spec, TuningSpec* out) {
  ScheduleConfig& config = out->train.schedule;
  if (spec.name() == "linear") {
    config.kind = ScheduleKind::kLinear;
  } else if (spec.name() == "cosine") {
    config.kind = ScheduleKind::kCosine;
  } else if (!spec.name().empty() && spec.name() != "constant") {
    return Limit("schedule.name", spec.name().substr(0, 40), "constant, linear, cosine");
  }
  if (spec.has_warmup_steps() && spec.has_warmup_ratio()) {
    return Limit("schedule.warmup_ratio", "with warmup_steps", "one of the two");
  }
  config.warmup_steps = spec.warmup_steps();
  out->warmup_ratio = spec.warmup_ratio();
  return CheckReal("schedule.warmup_ratio", out->warmup_ratio, 0.0, 1.0);
}

absl::Status TranslateBatch(const v1::FineTuneSpec& spec, TrainConfig* train) {
  train->batch_size = spec.has_batch_size() ? spec.batch_size() : 16;
  RETURN_IF_ERROR(CheckCount("batch_size", train->batch_size, 1, kMaxBatch));
  if (spec.has_micro_batch_size()) {
    train->micro_batch_size = spec.micro_batch_size();
  } else {
    train->micro_batch_size = std::min(kMaxMicroBatchByDefault, train->batch_size);
    while (train->batch_size % train->micro_batch_size != 0) --train->micro_batch_size;
  }
  if (train->micro_batch_size >= 1 && train->batch_size % train->micro_batch_size == 0) return absl::OkStatus();
  return Limit("micro_batch_size", absl::StrCat(train->micro_batch_size),
               absl::StrCat("a divisor of batch_size ", train->batch_size));
}

// What is asked for of evaluations needs examples to evaluate on.
absl::Status TranslateEvaluation(const v1::FineTuneSpec& spec, TuningSpec* out) {
  const v1::DatasetSpec& dataset = spec.dataset();
  out->eval_path = dataset.eval_path();
  out->eval_fraction = dataset.eval_fraction();
  if (dataset.has_eval_fraction()) {
    if (!out->eval_path.empty()) return Limit("dataset.eval_fraction", "with eval_path", "one of the two");
    RETURN_IF_ERROR(CheckReal("dataset.eval_fraction", out->eval_fraction, 0.0, 0.9));
  }
  const bool has_examples = !out->eval_path.empty() || out->eval_fraction > 0;
  const Refusal wants[] = {{spec.has_eval_every_steps(), "eval_every_steps"},
                           {spec.has_early_stopping_patience(), "early_stopping_patience"},
                           {spec.eval_prompts_size() > 0, "eval_prompts"},
                           {spec.has_max_eval_loss_increase(), "max_eval_loss_increase"}};
  for (const Refusal& want : wants) {
    if (want.set && !has_examples) {
      return Limit(want.field, "without examples to evaluate on", "with dataset.eval_path or dataset.eval_fraction");
    }
  }
  out->eval_every_steps = spec.eval_every_steps();
  out->early_stopping_patience = spec.early_stopping_patience();
  out->eval_prompts.assign(spec.eval_prompts().begin(), spec.eval_prompts().end());
  RETURN_IF_ERROR(CheckCount("eval_prompts", spec.eval_prompts_size(), 0, kMaxEvalPrompts));
  if (spec.has_eval_every_steps()) {
    RETURN_IF_ERROR(CheckCount("eval_every_steps", out->eval_every_steps, 1, kMaxSteps));
  }
  if (!spec.has_max_eval_loss_increase()) return absl::OkStatus();
  out->max_eval_loss_increase = spec.max_eval_loss_increase();
  return CheckReal("max_eval_loss_increase", *out->max_eval_loss_increase, 0.0, 1e6);
}

}  // namespace

double DefaultLearningRate(const ModelFacts& model) {
  constexpr double kFullRate = 5e-5, kLoraFactor = 10.0, kReferenceWidth = 2000.0;
  double exponent = 0.0;  // of families that the rule was not fitted to
  if (absl::StartsWith(model.architecture, "Llama")) exponent = 0.781;
  if (absl::StartsWith(model.architecture, "Qwen")) exponent = 0.0775;
  return kFullRate * kLoraFactor * std::pow(kReferenceWidth / static_cast<double>(model.hidden_size), exponent);
}

absl::StatusOr<TuningSpec> TranslateSpec(const v1::FineTuneSpec& spec, const ModelFacts& model) {
  RETURN_IF_ERROR(CheckAdapterName(spec.name()));
  TuningSpec out;
  out.name = spec.name();
  RETURN_IF_ERROR(TranslateAdapter(spec.adapter(), &out.train));
  RETURN_IF_ERROR(TranslateOptimizer(spec.optimizer(), model, &out.train.optimizer));
  RETURN_IF_ERROR(TranslateSchedule(spec.schedule(), &out));
  RETURN_IF_ERROR(TranslateBatch(spec, &out.train));
  RETURN_IF_ERROR(TranslateEvaluation(spec, &out));
  out.packing = spec.dataset().packing();
  RETURN_IF_ERROR(TranslateDataset(spec.dataset(), model).status());
  out.train.seed = spec.seed();
  out.train.padding_token = model.padding_token;
  out.train.base_digest = model.digest;
  out.train.shuffle = !spec.dataset().has_shuffle() || spec.dataset().shuffle();
  if (spec.loss_normalization() == "micro_batch_mean") {
    out.train.normalization = LossNormalization::kMicroBatchMean;
  } else if (!spec.loss_normalization().empty() && spec.loss_normalization() != "token_mean") {
    return Limit("loss_normalization", spec.loss_normalization().substr(0, 40), "token_mean, micro_batch_mean");
  }
  if (spec.has_epochs()) out.epochs = spec.epochs();
  RETURN_IF_ERROR(CheckCount("epochs", out.epochs, 1, 1'000'000));
  if (spec.has_max_steps()) {
    out.max_steps = spec.max_steps();
    RETURN_IF_ERROR(CheckCount("max_steps", out.max_steps, 1, kMaxSteps));
  }
  if (spec.has_checkpoint_every_steps()) {
    out.checkpoint_every_steps = spec.checkpoint_every_steps();
    RETURN_IF_ERROR(CheckCount("checkpoint_every_steps", out.checkpoint_every_steps, 1, kMaxSteps));
  }
  out.publish = !spec.no_publish();
  if (spec.has_keep_revisions()) {
    out.keep_revisions = spec.keep_revisions();
    RETURN_IF_ERROR(CheckCount("keep_revisions", out.keep_revisions, 1, 1'000'000));
  }
  out.priority = spec.priority();
  return out;
}

absl::StatusOr<TuningData> TranslateDataset(const v1::DatasetSpec& dataset, const ModelFacts& model) {
  if (dataset.path().empty() == (dataset.lines_size() == 0)) {
    return Limit("dataset", dataset.path().empty() ? "neither path nor lines" : "path and lines", "one of the two");
  }
  TuningData data;
  data.path = dataset.path();
  data.lines.assign(dataset.lines().begin(), dataset.lines().end());
  data.format = dataset.format();
  data.train_on_inputs = dataset.train_on_inputs();
  data.max_length_tokens = dataset.has_max_length_tokens()
                               ? int64_t{dataset.max_length_tokens()}
                               : std::min<int64_t>(model.max_context_tokens, kDefaultMaxLengthTokens);
  RETURN_IF_ERROR(CheckCount("dataset.max_length_tokens", data.max_length_tokens, 2, model.max_context_tokens));
  return data;
}

absl::StatusOr<TrainConfig> ResolveSteps(const TuningSpec& spec, int64_t entries) {
  TrainConfig train = spec.train;
  train.total_steps = spec.max_steps;
  if (train.total_steps == 0) {
    const double sequences = static_cast<double>(spec.epochs) * static_cast<double>(entries);
    const double steps = std::ceil(sequences / static_cast<double>(train.batch_size));
    if (steps > static_cast<double>(kMaxSteps)) {
      return Limit("steps", absl::StrCat(steps), absl::StrCat(kMaxSteps, "; lower epochs or give max_steps"));
    }
    train.total_steps = static_cast<int64_t>(steps);
  }
  train.eval_every_steps = spec.eval_every_steps > 0 ? spec.eval_every_steps : CheckpointEvery(spec, train.total_steps);
  if (spec.warmup_ratio > 0) {
    train.schedule.warmup_steps =
        static_cast<int64_t>(std::ceil(spec.warmup_ratio * static_cast<double>(train.total_steps)));
  }
  return train;
}

int64_t CheckpointEvery(const TuningSpec& spec, int64_t total_steps) {
  if (spec.checkpoint_every_steps > 0) return spec.checkpoint_every_steps;
  return std::clamp<int64_t>(total_steps / 10, 1, 100);
}

}  // namespace lorad
