#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/train/train_config.h"
#include "lorad/v1/finetuning.pb.h"
#include "server/model_facts.h"

namespace lorad {

// A FineTuneSpec as we understand it, defaults filled in as server/tuning/README.md lists them.
struct TuningSpec {
  std::string name;
  TrainConfig train;  // but for total_steps and the schedule's warm-up, which the data decide
  int64_t epochs = 3;
  int64_t max_steps = 0;  // 0 = by epochs
  double warmup_ratio = 0;
  int64_t checkpoint_every_steps = 0;  // 0 = a tenth of the job, at most 100
  bool publish = true;
  int64_t keep_revisions = 0;  // 0 = all
  double eval_fraction = 0;    // of the examples; with `eval_path`: 0
  std::string eval_path;
  int64_t eval_every_steps = 0;         // 0 = with every checkpoint
  int64_t early_stopping_patience = 0;  // evaluations; 0 = none
  std::vector<std::string> eval_prompts;
  std::optional<double> max_eval_loss_increase;
  bool packing = false;
  int32_t priority = 0;
};

struct TuningData {
  std::string path;  // "": `lines`
  std::vector<std::string> lines;
  std::string format;  // "": detected
  int64_t max_length_tokens = 0;
  bool train_on_inputs = false;
};

// Errors   Unimplemented, naming the field, for what is set and not supported; InvalidArgument for a value that cannot
// be.
absl::StatusOr<TuningSpec> TranslateSpec(const v1::FineTuneSpec& spec, const ModelFacts& model);
absl::StatusOr<TuningData> TranslateDataset(const v1::DatasetSpec& dataset, const ModelFacts& model);

// What so many entries of a batch make of it: total_steps, warm-up, how often is evaluated. Errors: InvalidArgument for
// more steps than can be counted.
absl::StatusOr<TrainConfig> ResolveSteps(const TuningSpec& spec, int64_t entries);
int64_t CheckpointEvery(const TuningSpec& spec, int64_t total_steps);

// The rule of "LoRA Without Regret" (Schulman et al., 2025): ten times the full fine-tuning rate, less for wider
// Llamas.
double DefaultLearningRate(const ModelFacts& model);

}  // namespace lorad
