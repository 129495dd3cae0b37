#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "scheduler/tuning/run.h"
#include "scheduler/tuning/run_op.h"
#include "scheduler/tuning/training_runs.h"

namespace lorad {

// Does the operations of runs that need no forward: optimizer steps, and what is saved and loaded.
//
// Threads  the trainer's.
// Errors   of files; as RunFolder, TrainingRun and Revisions. NotFound: no such state.
class RunAtOnce final {
 public:
  // `parts` outlive it. `is_run`: whether there is a run of this id now.
  using IsRunFn = std::function<bool(const std::string& id)>;
  RunAtOnce(const TrainingRuns::Parts& parts, IsRunFn is_run);

  absl::StatusOr<RunResult> Do(const RunOp& op, const TrainingRuns::Turn& turn, Run* run) const;

 private:
  absl::StatusOr<RunResult> SaveState(const std::string& label, Run* run) const;
  absl::StatusOr<RunResult> LoadState(const std::string& state_id, Run* run) const;
  absl::StatusOr<RunResult> SaveForSampling(bool make_current, Run* run) const;

  const TrainingRuns::Parts& parts_;
  const IsRunFn is_run_;
};

}  // namespace lorad
