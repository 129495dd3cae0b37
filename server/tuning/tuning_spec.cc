#include "server/tuning/tuning_spec.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/names.h"
#include "model/base/status_macros.h"
#include "server/tuning/adapter_spec.h"
#include "server/tuning/field_limits.h"

namespace lorad {
namespace {

constexpr int64_t kMaxSteps = 10'000'000;
constexpr int64_t kMaxBatch = 4096;
constexpr int64_t kDefaultMaxLengthTokens = 2048;
constexpr int64_t kMaxMicroBatchByDefault = 4;
constexpr int64_t kMaxEvalPrompts = 16;

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
