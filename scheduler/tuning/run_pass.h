#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "adapters/train/micro_batch_part.h"
#include "adapters/train/training_run.h"
#include "scheduler/tuning/run_op.h"

namespace lorad {

// One ForwardBackward of a run, as parts of batches: as many of its sequences at a time as there is room for. With
// dropout each sequence is a part of its own, so that its masks are the same however the operation is cut. Where the
// routers' loss is of how all rows together are dealt, and there is no room for them in one batch, the forward of all
// is done once before, to count them.
//
// Threads  the trainer's.
class RunPass final {
 public:
  // What of `op`, of number `sequence`, is computed next: sequences that fit `rows`, which gets less, one at least.
  std::vector<MicroBatchPart> Take(const RunOp& op, int64_t sequence, const TrainingRun& run, int64_t* rows);
  // Of the parts that were taken, in their order; the operation's result when that was all of it.
  std::optional<RunResult> Put(const PartResult& result);
  // The operation ends here.
  void Drop();

 private:
  struct Taken {
    std::vector<size_t> lengths;  // of its sequences
    double router_loss_weight = 0;
  };
  void Begin(const RunOp& op, const TrainingRun& run, int64_t rows);
  // The sequences from next_datum_ to `end`.
  MicroBatchPart PartTo(size_t end, const RunOp& op, int64_t sequence, const TrainingRun& run);

  bool begun_ = false;
  std::shared_ptr<RouterTally> tally_;  // null: the operation is one part, or its routers' loss a mean over rows
  bool counting_ = false;
  size_t next_datum_ = 0;
  size_t next_row_ = 0;
  std::deque<Taken> taken_;  // parts under way
  bool all_taken_ = false;
  RunResult result_;
};

}  // namespace lorad
