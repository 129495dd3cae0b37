#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/train/trainer.h"

namespace lorad {

class MicroBatch;

// Returns when the device of `model`, which outlives it, has done what was asked of it; null where that is the CPU.
std::function<void()> DeviceWait(const CausalLm* model);
// Of a status that is about to be told: as EndIfLost (model/lost_device.h), of the model's device.
void EndIfDeviceIsLost(const CausalLm* model, const absl::Status& status);

// Whoever has a part in a batch. `put` is called once with the part's result, unless the batch failed.
struct BatchMember {
  MicroBatchPart part;
  std::function<void(const PartResult& result)> put;
};

// The next micro-batches of several trainers, and parts of others, computed as one batch: the base's matmuls see all
// rows, each adapter its own. Optimizer, schedule, accumulation and order of examples are each trainer's, so that
// training together gives the losses of training alone, but for how sums are rounded; alone it gives the same bits.
//
// Threads  one; nobody else uses the model during a call that computes.
class SharedBatch final {
 public:
  // All outlive it, and no trainer is done.
  // `kept_bytes`: of the forward's inner values, so that they need not be computed again.
  static constexpr int64_t kKeptBytes = int64_t{512} << 20;
  SharedBatch(CausalLm* model, std::vector<Trainer*> trainers, std::vector<BatchMember> others = {},
              int64_t kept_bytes = kKeptBytes);
  ~SharedBatch();

  // Computes one slice. True: that was the last, and every trainer has its result; the object is of no more use. Errors
  // concern all: the model's, or reading a trainer's examples; every trainer has to drop its step then.
  absl::StatusOr<bool> Advance();

  struct Result {
    Trainer* trainer;
    absl::StatusOr<std::optional<StepReport>> report;  // as Trainer::PutResult
  };
  std::vector<Result>& results() { return results_; }  // of the trainers in order; once it ended

 private:
  absl::Status Begin();

  CausalLm* const model_;
  const std::vector<Trainer*> trainers_;
  std::vector<BatchMember> others_;
  const int64_t kept_bytes_;
  std::unique_ptr<MicroBatch> micro_batch_;
  std::vector<Result> results_;
};

}  // namespace lorad
