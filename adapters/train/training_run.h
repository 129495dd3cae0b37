#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "adapters/train/micro_batch_part.h"
#include "adapters/train/train_config.h"

namespace lorad {

class CausalLm;

// One adapter in training whose steps somebody else decides on: what is computed, when the optimizer steps, what is
// saved. Gradients add up until OptimStep.
//
// Threads  one; nobody else uses the model while its parts are computed.
class TrainingRun final {
 public:
  // Of `config` the adapter, its start and the seed count. `model` outlives it. Errors: as Trainer::Create.
  static absl::StatusOr<std::unique_ptr<TrainingRun>> Create(const TrainConfig& config, CausalLm* model,
                                                             const BaseTables& base_tables,
                                                             const GoOnFn& go_on = nullptr);
  ~TrainingRun();

  // Begins from the weights of `image`. Errors: as AdapterLeaves::CopyFrom.
  absl::Status CopyFrom(const AdapterImage& image);

  // Sequences to be computed with this run's adapter. What dropout and routers' noise draw is a function of the run's
  // seed and `draw`.
  MicroBatchPart PartOf(std::vector<TrainSequence> sequences, RowLoss loss, uint64_t draw) const;
  bool draws() const;             // has dropout or noise
  int64_t row_cost() const;       // of each row in a batch, as RowCost
  bool has_router_loss() const;   // whose part in the gradients is MicroBatchPart::router_loss_scale
  bool balances_experts() const;  // by that loss, which then is no sum of its parts' (MicroBatchPart::router_tally)
  // AdamW with the gradients so far, which are then gone, also after an error; the norm before clipping. Errors: as
  // Optimizer::Step.
  absl::StatusOr<double> OptimStep(const OptimizerConfig& config);
  void DropGradients();

  // Weights and optimizer state; gradients are not in it. Errors: as Trainer's.
  absl::Status SaveState(const std::string& path) const;
  absl::Status LoadState(const std::string& path);
  // Was made to begin from a state, and none was loaded yet: of no use so far.
  bool needs_state() const;
  // As Trainer::SaveAdapter.
  absl::Status SaveAdapter(const std::string& dir, const std::string& base_name) const;

 private:
  struct Impl;
  explicit TrainingRun(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
