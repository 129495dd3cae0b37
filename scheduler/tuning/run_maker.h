#pragma once

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "adapters/image.h"
#include "scheduler/tuning/run.h"
#include "scheduler/tuning/run_folder.h"
#include "scheduler/tuning/training_runs.h"

namespace lorad {

// Makes runs: new ones with their folders, and those that lie on disk.
//
// Threads  one call at a time for a run.
// Errors   of files, of `make`, `hold` and `go_on`; as RunFolder and TrainingRun.
class RunMaker final {
 public:
  // `parts` outlive it.
  explicit RunMaker(const TrainingRuns::Parts& parts) : parts_(parts) {}

  // A new one, in memory that is held before it is taken.
  absl::StatusOr<std::shared_ptr<Run>> Begin(const RunFolder::Identity& identity,
                                             const std::optional<AdapterImage>& weights, const GoOnFn& go_on) const;
  // As it was at its newest saved state, or at its beginning.
  absl::StatusOr<std::shared_ptr<Run>> Load(const RunFolder::Identity& identity, const GoOnFn& go_on) const;

 private:
  absl::StatusOr<std::shared_ptr<Run>> Make(const RunFolder::Identity& identity, bool begins_from_state,
                                            const GoOnFn& go_on) const;

  const TrainingRuns::Parts& parts_;
};

}  // namespace lorad
