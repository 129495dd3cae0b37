#include "adapters/train/training_run.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/train/adapter_folder.h"
#include "adapters/train/leaves.h"
#include "adapters/train/optimizer.h"
#include "adapters/train/random_order.h"
#include "adapters/train/train_size.h"
#include "adapters/train/trainable_base.h"
#include "adapters/train/training_state.h"
#include "model/base/status_macros.h"
#include "model/causal_lm.h"
#include "model/device_step.h"

namespace lorad {

struct TrainingRun::Impl {
  Impl(const TrainConfig& train_config, AdapterLeaves made)
      : config(train_config),
        leaves(std::move(made)),
        optimizer(config.optimizer, leaves.Named()),
        needs_state(config.begins_from_state) {}

  const TrainConfig config;
  AdapterLeaves leaves;
  Optimizer optimizer;
  bool needs_state;
};

TrainingRun::TrainingRun(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TrainingRun::~TrainingRun() = default;

absl::StatusOr<std::unique_ptr<TrainingRun>> TrainingRun::Create(const TrainConfig& config, CausalLm* model,
                                                                 const BaseTables& base_tables, const GoOnFn& go_on) {
  RETURN_IF_ERROR(CheckTrainable(*model));
  ASSIGN_OR_RETURN(AdapterLeaves leaves, AdapterLeaves::Create(config, model->base_shape(), base_tables, go_on));
  return GuardedOnDevice([&]() -> absl::StatusOr<std::unique_ptr<TrainingRun>> {
    leaves.MoveToDeviceOf(*model);
    return std::unique_ptr<TrainingRun>(new TrainingRun(std::make_unique<Impl>(config, std::move(leaves))));
  });
}

absl::Status TrainingRun::CopyFrom(const AdapterImage& image) {
  return GuardedOnDevice([&] { return impl_->leaves.CopyFrom(image); });
}

MicroBatchPart TrainingRun::PartOf(std::vector<TrainSequence> sequences, RowLoss loss, uint64_t draw) const {
  MicroBatchPart part;
  part.leaves = &impl_->leaves;
  part.sequences = std::move(sequences);
  part.loss = std::move(loss);
  part.dropout = impl_->config.dropout;
  part.dropout_seed = MixSeed(MixSeed(impl_->config.seed, kDropoutStream), draw);
  if (const RoutedTraining* routed = impl_->leaves.routed(); routed != nullptr) {
    part.expert_dropout = routed->expert_dropout;
    part.has_noise = true;
    part.router_loss_scale = 1.0;
  }
  return part;
}

bool TrainingRun::draws() const {
  const RoutedTraining* routed = impl_->leaves.routed();
  return impl_->config.dropout > 0 || (routed != nullptr && (routed->expert_dropout > 0 || routed->jitter_noise > 0));
}

int64_t TrainingRun::row_cost() const { return RowCost(impl_->config); }

bool TrainingRun::has_router_loss() const {
  const RoutedTraining* routed = impl_->leaves.routed();
  return routed != nullptr && routed->has_loss();
}

bool TrainingRun::balances_experts() const {
  const RoutedTraining* routed = impl_->leaves.routed();
  return routed != nullptr && routed->aux_loss_coef > 0;
}

absl::StatusOr<double> TrainingRun::OptimStep(const OptimizerConfig& config) {
  absl::StatusOr<double> stepped = GuardedOnDevice([&]() -> absl::StatusOr<double> {
    impl_->optimizer.set_config(config);
    ASSIGN_OR_RETURN(const double norm, impl_->optimizer.Step(config.learning_rate));
    impl_->leaves.UpdateNorms();
    return norm;
  });
  if (stepped.ok()) return stepped;
  DropGradients();  // what is not finite stays so, whatever is added
  const absl::Status& status = stepped.status();
  return absl::Status(status.code(), absl::StrCat(status.message(), "; the run's gradients are dropped"));
}

void TrainingRun::DropGradients() { impl_->leaves.DropGradients(); }

absl::Status TrainingRun::SaveState(const std::string& path) const {
  return GuardedOnDevice(
      [&] { return SaveTrainingState(path, impl_->config.base_digest, impl_->leaves, impl_->optimizer); });
}

absl::Status TrainingRun::LoadState(const std::string& path) {
  RETURN_IF_ERROR(GuardedOnDevice(
      [&] { return LoadTrainingState(path, impl_->config.base_digest, &impl_->leaves, &impl_->optimizer); }));
  impl_->leaves.DropGradients();
  impl_->needs_state = false;
  return absl::OkStatus();
}

bool TrainingRun::needs_state() const { return impl_->needs_state; }

absl::Status TrainingRun::SaveAdapter(const std::string& dir, const std::string& base_name) const {
  return GuardedOnDevice([&] { return WriteAdapterFolder(dir, impl_->config, impl_->leaves, base_name); });
}

}  // namespace lorad
