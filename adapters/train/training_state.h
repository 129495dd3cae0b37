#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "adapters/train/leaves.h"
#include "adapters/train/optimizer.h"
#include "adapters/train/train_config.h"

namespace lorad {

// All that one adapter's training goes on from, where the model lies: weights and optimizer. What a Trainer and a
// TrainingRun have in common.
//
// Threads  the trainer's.
// Errors   of each call that computes: ResourceExhausted, the device's memory is full.
class TrainingState final {
 public:
  // Fresh. Errors: as the reader of targets; `go_on`'s.
  static absl::StatusOr<TrainingState> Create(const TrainConfig& config, const CausalLm& model,
                                              const BaseTables& base_tables, const GoOnFn& go_on);

  // Begins from the weights of `image`. Errors: as AdapterLeaves::CopyFrom.
  absl::Status CopyFrom(const AdapterImage& image);
  // Steps the optimizer; the gradients' norm before clipping. Errors: as Optimizer::Step.
  absl::StatusOr<double> Step(double learning_rate);

  // The leaves with their constants, the optimizer's states and its steps as a file, to the same bits; gradients are
  // not in it. Errors: as tensor_file.h; DataLoss also for a number of steps that is none; FailedPrecondition for a
  // state of another base than config().base_digest, but one of before states said so is taken. A state that does not
  // fit changes nothing.
  absl::Status Save(const std::string& path) const;
  absl::Status Load(const std::string& path);
  // As WriteAdapterFolder.
  absl::Status SaveAdapter(const std::string& dir, const std::string& base_name,
                           const std::map<std::string, std::string>& provenance = {}) const;

  const TrainConfig& config() const { return config_; }
  const AdapterLeaves& leaves() const { return leaves_; }
  const RoutedTraining* routed() const { return leaves_.routed(); }  // null: no routers
  void DropGradients() { leaves_.DropGradients(); }
  Optimizer& optimizer() { return optimizer_; }
  const Optimizer& optimizer() const { return optimizer_; }

 private:
  TrainingState(const TrainConfig& config, AdapterLeaves leaves);

  TrainConfig config_;
  AdapterLeaves leaves_;
  Optimizer optimizer_;
};

}  // namespace lorad
