#include "adapters/train/training_run.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/train/random_order.h"
#include "adapters/train/train_size.h"
#include "adapters/train/training_state.h"
#include "model/base/status_macros.h"

namespace lorad {

struct TrainingRun::Impl {
  explicit Impl(TrainingState made) : state(std::move(made)), needs_state(state.config().begins_from_state) {}

  TrainingState state;
  bool needs_state;
};

TrainingRun::TrainingRun(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TrainingRun::~TrainingRun() = default;

absl::StatusOr<std::unique_ptr<TrainingRun>> TrainingRun::Create(const TrainConfig& config, CausalLm* model,
                                                                 const BaseTables& base_tables, const GoOnFn& go_on) {
  ASSIGN_OR_RETURN(TrainingState state, TrainingState::Create(config, *model, base_tables, go_on));
  return std::unique_ptr<TrainingRun>(new TrainingRun(std::make_unique<Impl>(std::move(state))));
}

absl::Status TrainingRun::CopyFrom(const AdapterImage& image) { return impl_->state.CopyFrom(image); }

MicroBatchPart TrainingRun::PartOf(std::vector<TrainSequence> sequences, RowLoss loss, uint64_t draw) const {
  MicroBatchPart part;
  part.leaves = &impl_->state.leaves();
  part.sequences = std::move(sequences);
  part.loss = std::move(loss);
  part.dropout = impl_->state.config().dropout;
  part.dropout_seed = MixSeed(MixSeed(impl_->state.config().seed, kDropoutStream), draw);
  if (const RoutedTraining* routed = impl_->state.routed(); routed != nullptr) {
    part.expert_dropout = routed->expert_dropout;
    part.has_noise = true;
    part.router_loss_scale = 1.0;
  }
  return part;
}

bool TrainingRun::draws() const {
  const RoutedTraining* routed = impl_->state.routed();
  return impl_->state.config().dropout > 0 ||
         (routed != nullptr && (routed->expert_dropout > 0 || routed->jitter_noise > 0));
}

int64_t TrainingRun::row_cost() const { return RowCost(impl_->state.config()); }

bool TrainingRun::has_router_loss() const {
  const RoutedTraining* routed = impl_->state.routed();
  return routed != nullptr && routed->has_loss();
}

bool TrainingRun::balances_experts() const {
  const RoutedTraining* routed = impl_->state.routed();
  return routed != nullptr && routed->aux_loss_coef > 0;
}

absl::StatusOr<double> TrainingRun::OptimStep(const OptimizerConfig& config) {
  impl_->state.optimizer().set_config(config);
  absl::StatusOr<double> stepped = impl_->state.Step(config.learning_rate);
  if (stepped.ok()) return stepped;
  DropGradients();  // what is not finite stays so, whatever is added
  const absl::Status& status = stepped.status();
  return absl::Status(status.code(), absl::StrCat(status.message(), "; the run's gradients are dropped"));
}

void TrainingRun::DropGradients() { impl_->state.DropGradients(); }

absl::Status TrainingRun::SaveState(const std::string& path) const { return impl_->state.Save(path); }

absl::Status TrainingRun::LoadState(const std::string& path) {
  RETURN_IF_ERROR(impl_->state.Load(path));
  DropGradients();
  impl_->needs_state = false;
  return absl::OkStatus();
}

bool TrainingRun::needs_state() const { return impl_->needs_state; }

absl::Status TrainingRun::SaveAdapter(const std::string& dir, const std::string& base_name) const {
  return impl_->state.SaveAdapter(dir, base_name);
}

}  // namespace lorad
