#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "adapters/train/example.h"
#include "adapters/train/micro_batch_part.h"
#include "adapters/train/train_config.h"

namespace lorad {

class CausalLm;

// One optimizer step that was done, or, with `eval_loss` and nothing else but `step`, the evaluation behind it.
struct StepReport {
  int64_t step = 0;      // from 1
  double loss = 0;       // cross entropy, normalised as the job says
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  int64_t tokens = 0;  // all tokens of the step's sequences
  int64_t trained_tokens = 0;
  std::optional<double> eval_loss = {};
  std::optional<double> router_loss = {};  // of an adapter with routers: what is added to the loss for them
};

// Trains one adapter on the base that is served, a slice at a time. Everything that a step draws (order of examples,
// dropout) is a function of seed and step alone, so that weights, optimizer state and the number of steps are all that
// a checkpoint needs, and a run that goes on from one gives the same bits as one that was never stopped.
//
// Threads  one; nobody else uses the model during a call that computes.
// Errors   Create: as the reader of targets. Advance: DataLoss for a loss or gradient that is not finite; the model's.
//          A trainer that answered an error is not used again.
class Trainer final {
 public:
  // `base_tables`: for DoRA and for what is trained instead of the base's. `model` outlives it. `eval`: evaluated every
  // config.eval_every_steps, and behind the last. `go_on`: as AdapterLeaves.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const TrainConfig& config, CausalLm* model,
                                                         const BaseTables& base_tables, ExampleSource examples,
                                                         ExampleSource eval = {}, const GoOnFn& go_on = nullptr);
  ~Trainer();

  // Begins from the weights of `image`.
  absl::Status CopyFrom(const AdapterImage& image);

  // Computes one slice, of this trainer alone; the report when that ended a step. SharedBatch computes several
  // together.
  absl::StatusOr<std::optional<StepReport>> Advance();
  int64_t steps() const;  // done
  bool done() const;      // the last step, and the evaluation behind it
  void EndEarly();        // the steps done were enough

  // Weights and optimizer state after steps() steps as a safetensors file at `path`, synced; what is under way is not
  // in it.
  absl::Status SaveState(const std::string& path) const;
  // Before the first Advance. The evaluation that is due behind these steps is done (again). Errors: DataLoss for a
  // file that is not this job's; FailedPrecondition for one of another base.
  absl::Status LoadState(const std::string& path);
  // The adapter as PEFT would save it, one with routers as MoE-PEFT: its files in the folder `dir`, synced.
  // `provenance` becomes metadata.
  absl::Status SaveAdapter(const std::string& dir, const std::string& base_name,
                           const std::map<std::string, std::string>& provenance = {}) const;

  int64_t parameters() const;
  int64_t state_bytes() const;  // as TrainSize

  // What computes a micro-batch takes the next one here and brings its result, once each.
  absl::StatusOr<MicroBatchPart> TakeMicroBatch();
  absl::StatusOr<std::optional<StepReport>> PutResult(const PartResult& result);
  // The rows that TakeMicroBatch gives next, each as often as RowCost says. Reads the step's examples.
  absl::StatusOr<int64_t> NextRows();
  // Gives up the step under way, with what was taken for it; it begins anew.
  void DropStep();

 private:
  struct Impl;
  explicit Trainer(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
