#include "adapters/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/train/evaluation_pass.h"
#include "adapters/train/example_entries.h"
#include "adapters/train/random_order.h"
#include "adapters/train/schedule.h"
#include "adapters/train/shared_batch.h"
#include "adapters/train/train_size.h"
#include "adapters/train/training_state.h"
#include "model/base/check.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

int64_t RowsOf(const MicroBatchPart& part) {
  int64_t rows = 0;
  for (const TrainSequence& sequence : part.sequences) rows += static_cast<int64_t>(sequence.token_ids.size());
  return rows;
}

}  // namespace

struct Trainer::Impl {
  Impl(TrainingState made, CausalLm* base, ExampleSource source, ExampleSource eval)
      : state(std::move(made)),
        model(base),
        entries(std::move(source), config().shuffle, config().seed),
        evaluation(std::move(eval), config().micro_batch_size) {}

  const TrainConfig& config() const { return state.config(); }
  int64_t steps() const { return state.optimizer().steps(); }

  absl::Status BeginStep();
  void BeginDueEvaluation();
  absl::StatusOr<MicroBatchPart> EvaluationPart();
  MicroBatchPart NextPart() const;
  absl::StatusOr<StepReport> EndStep();

  int64_t micro_batches() const { return config().batch_size / config().micro_batch_size; }

  // The micro-batch's part of the step's loss, as the sum of its cross entropies is weighted.
  double LossScale(int64_t micro_batch_tokens) const {
    if (config().normalization == LossNormalization::kTokenMean) return 1.0 / static_cast<double>(step_trained_tokens);
    return 1.0 / static_cast<double>(micro_batches() * std::max<int64_t>(1, micro_batch_tokens));
  }

  TrainingState state;
  CausalLm* const model;
  const ExampleEntries entries;
  EvaluationPass evaluation;

  // The step under way.
  std::vector<std::vector<Example>> batch;  // by entry; empty: none
  int64_t step_tokens = 0;
  int64_t step_trained_tokens = 0;
  int64_t micro_batch_index = 0;
  double micro_batch_scale = 0;
  double step_loss = 0;
  double step_router_loss = 0;
  bool ended_early = false;
  std::unique_ptr<SharedBatch> alone;  // of Advance
};

absl::Status Trainer::Impl::BeginStep() {
  batch.clear();
  step_tokens = step_trained_tokens = micro_batch_index = 0;
  step_loss = step_router_loss = 0;
  for (int64_t i = 0; i < config().batch_size; ++i) {
    ASSIGN_OR_RETURN(std::vector<Example> entry, entries.At(steps() * config().batch_size + i));
    for (const Example& example : entry) {
      step_tokens += static_cast<int64_t>(example.token_ids.size());
      step_trained_tokens += TrainedTokens(example);
    }
    batch.push_back(std::move(entry));
  }
  return absl::OkStatus();
}

void Trainer::Impl::BeginDueEvaluation() {
  const bool last = steps() >= config().total_steps;
  const bool due = last || steps() % std::max<int64_t>(1, config().eval_every_steps) == 0;
  if (evaluation.possible() && steps() > 0 && due) evaluation.Begin();
}

absl::StatusOr<MicroBatchPart> Trainer::Impl::EvaluationPart() {
  MicroBatchPart part;
  part.leaves = &state.leaves();
  part.loss.scale = 0.0;
  ASSIGN_OR_RETURN(part.sequences, evaluation.Next());
  return part;
}

MicroBatchPart Trainer::Impl::NextPart() const {
  MicroBatchPart part;
  part.leaves = &state.leaves();
  part.dropout = config().dropout;
  const int64_t number = steps() * micro_batches() + micro_batch_index;
  part.dropout_seed = MixSeed(MixSeed(config().seed, kDropoutStream), static_cast<uint64_t>(number));
  const auto first = batch.begin() + micro_batch_index * config().micro_batch_size;
  int64_t trained_tokens = 0;
  for (auto entry = first; entry != first + config().micro_batch_size; ++entry) {
    for (const Example& example : *entry) {
      part.sequences.push_back(SequenceOf(example));
      trained_tokens += TrainedTokens(example);
    }
  }
  part.loss.scale = LossScale(trained_tokens);
  if (const RoutedTraining* routed = state.routed(); routed != nullptr) {
    part.has_noise = part.has_capacity = true;
    part.expert_dropout = routed->expert_dropout;
    part.router_loss_scale = 1.0 / static_cast<double>(micro_batches());
  }
  return part;
}

absl::StatusOr<StepReport> Trainer::Impl::EndStep() {
  StepReport report;
  report.loss = step_loss;
  report.tokens = step_tokens;
  report.trained_tokens = step_trained_tokens;
  if (state.routed() != nullptr && state.routed()->has_loss()) report.router_loss = step_router_loss;
  if (!std::isfinite(report.loss + step_router_loss)) {
    return absl::DataLossError(
        absl::StrCat("loss of step ", steps() + 1, ": ", report.loss, "; limit: finite; lower the learning rate"));
  }
  report.learning_rate =
      config().optimizer.learning_rate * ScheduleFactor(config().schedule, steps(), config().total_steps);
  ASSIGN_OR_RETURN(report.grad_norm, state.Step(report.learning_rate));
  report.step = steps();
  batch.clear();
  BeginDueEvaluation();
  return report;
}

Trainer::Trainer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trainer::~Trainer() = default;

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const TrainConfig& config, CausalLm* model,
                                                         const BaseTables& base_tables, ExampleSource examples,
                                                         ExampleSource eval, const GoOnFn& go_on) {
  LORAD_CHECK(examples.count > 0 && config.batch_size % config.micro_batch_size == 0);
  ASSIGN_OR_RETURN(TrainingState state, TrainingState::Create(config, *model, base_tables, go_on));
  auto impl = std::make_unique<Impl>(std::move(state), model, std::move(examples), std::move(eval));
  return std::unique_ptr<Trainer>(new Trainer(std::move(impl)));
}

absl::Status Trainer::CopyFrom(const AdapterImage& image) { return impl_->state.CopyFrom(image); }

absl::StatusOr<std::optional<StepReport>> Trainer::Advance() {
  LORAD_CHECK(!done());
  if (impl_->alone == nullptr) impl_->alone = std::make_unique<SharedBatch>(impl_->model, std::vector<Trainer*>{this});
  ASSIGN_OR_RETURN(const bool ended, impl_->alone->Advance());
  if (!ended) return std::optional<StepReport>();
  absl::StatusOr<std::optional<StepReport>> report = std::move(impl_->alone->results()[0].report);
  impl_->alone.reset();
  return report;
}

absl::StatusOr<MicroBatchPart> Trainer::TakeMicroBatch() {
  LORAD_CHECK(!done());
  if (impl_->evaluation.under_way()) return impl_->EvaluationPart();
  if (impl_->batch.empty()) RETURN_IF_ERROR(impl_->BeginStep());
  MicroBatchPart part = impl_->NextPart();
  impl_->micro_batch_scale = part.loss.scale;
  return part;
}

absl::StatusOr<int64_t> Trainer::NextRows() {
  if (impl_->evaluation.under_way()) {
    ASSIGN_OR_RETURN(const MicroBatchPart part, impl_->EvaluationPart());
    return RowsOf(part) * RowCost(impl_->config());
  }
  if (impl_->batch.empty()) RETURN_IF_ERROR(impl_->BeginStep());
  return RowsOf(impl_->NextPart()) * RowCost(impl_->config());
}

absl::StatusOr<std::optional<StepReport>> Trainer::PutResult(const PartResult& result) {
  if (impl_->evaluation.under_way()) {
    ASSIGN_OR_RETURN(const std::optional<double> loss, impl_->evaluation.Put(result));
    if (!loss.has_value()) return std::optional<StepReport>();
    return std::optional<StepReport>({.step = steps(), .eval_loss = loss});
  }
  impl_->step_loss += result.loss_sum * impl_->micro_batch_scale;
  impl_->step_router_loss += result.router_loss / static_cast<double>(impl_->micro_batches());
  if (++impl_->micro_batch_index < impl_->micro_batches()) return std::optional<StepReport>();
  ASSIGN_OR_RETURN(const StepReport report, impl_->EndStep());
  return std::optional<StepReport>(report);
}

void Trainer::DropStep() {
  impl_->batch.clear();
  impl_->alone.reset();
  impl_->state.DropGradients();
  if (impl_->evaluation.under_way()) impl_->evaluation.Begin();
}

int64_t Trainer::steps() const { return impl_->steps(); }
bool Trainer::done() const {
  return impl_->ended_early || (steps() >= impl_->config().total_steps && !impl_->evaluation.under_way());
}
void Trainer::EndEarly() { impl_->ended_early = true; }
int64_t Trainer::parameters() const { return impl_->state.leaves().parameters(); }

int64_t Trainer::state_bytes() const {
  int64_t floats = 2 * impl_->state.leaves().parameters();
  for (const auto& [name, kept] : impl_->state.optimizer().State()) floats += kept.numel();
  for (const NamedLeaf& constant : impl_->state.leaves().Constants()) floats += constant.tensor.numel();
  return floats * static_cast<int64_t>(sizeof(float));
}

absl::Status Trainer::SaveState(const std::string& path) const { return impl_->state.Save(path); }

absl::Status Trainer::LoadState(const std::string& path) {
  LORAD_CHECK(impl_->batch.empty());
  RETURN_IF_ERROR(impl_->state.Load(path));
  impl_->BeginDueEvaluation();
  return absl::OkStatus();
}

absl::Status Trainer::SaveAdapter(const std::string& dir, const std::string& base_name,
                                  const std::map<std::string, std::string>& provenance) const {
  return impl_->state.SaveAdapter(dir, base_name, provenance);
}

}  // namespace lorad
