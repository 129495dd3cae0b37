#include "scheduler/tuning/run_at_once.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "adapters/train/device_turns.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/run_folder.h"

namespace lorad {

RunAtOnce::RunAtOnce(const TrainingRuns::Parts& parts, IsRunFn is_run) : parts_(parts), is_run_(std::move(is_run)) {}

absl::StatusOr<RunResult> RunAtOnce::Do(const RunOp& op, const TrainingRuns::Turn& turn, Run* run) const {
  switch (op.kind) {
    case RunOpKind::kOptimStep: {
      absl::StatusOr<double> norm = 0.0;
      turn([&] { norm = run->training->OptimStep(op.optimizer); });
      RunResult result;
      ASSIGN_OR_RETURN(result.grad_norm, std::move(norm));
      return result;
    }
    case RunOpKind::kSaveState:
      return SaveState(op.label, run);
    case RunOpKind::kLoadState: {
      const DeviceTurns turns(turn);
      return LoadState(op.state_id, run);
    }
    case RunOpKind::kSaveForSampling:
      return SaveForSampling(op.make_current, run);
    case RunOpKind::kForwardBackward:
      break;
  }
  return absl::InternalError("not done at once");
}

// An id is RUN/SEQUENCE, with the label behind it for people.
absl::StatusOr<RunResult> RunAtOnce::SaveState(const std::string& label, Run* run) const {
  const int64_t sequence = run->queue.last_sequence() + 1;
  RETURN_IF_ERROR(RunFolder(parts_.dir, run->id).SaveState(sequence, *run->training));
  RunResult result;
  result.id = absl::StrCat(run->id, "/", sequence, label.empty() ? "" : ":", label);
  return result;
}

absl::StatusOr<RunResult> RunAtOnce::LoadState(const std::string& state_id, Run* run) const {
  const size_t slash = state_id.find('/');
  const std::string owner = state_id.substr(0, slash),
                    number = state_id.substr(slash + 1, state_id.find(':') - slash - 1);
  int64_t sequence = 0;
  // The run's name is looked up, so that an id leads nowhere but to a run's folder.
  if (slash == std::string::npos || !absl::SimpleAtoi(number, &sequence) || !is_run_(owner)) {
    return absl::NotFoundError(absl::StrCat("state: ", state_id.substr(0, 300), "; limit: one that SaveState gave"));
  }
  RETURN_IF_ERROR(RunFolder(parts_.dir, owner).LoadState(sequence, run->training.get()));
  return RunResult();
}

absl::StatusOr<RunResult> RunAtOnce::SaveForSampling(bool make_current, Run* run) const {
  ASSIGN_OR_RETURN(const std::string unfinished, RunFolder(parts_.dir, run->id).EmptyAdapterFolder());
  RETURN_IF_ERROR(run->training->SaveAdapter(unfinished, parts_.base_name));
  RunResult result;
  ASSIGN_OR_RETURN(result.id, parts_.revisions->Take(run->name, unfinished));
  if (!make_current) return result;
  RETURN_IF_ERROR(parts_.publish(run->name, parts_.revisions->Folder(result.id), /*replace=*/true));
  RETURN_IF_ERROR(parts_.revisions->MakeCurrent(run->name, result.id));
  return result;
}

}  // namespace lorad
