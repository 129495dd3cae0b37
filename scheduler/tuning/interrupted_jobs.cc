#include "scheduler/tuning/interrupted_jobs.h"

#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr const char* kStartedAgain = "the daemon was started again";
constexpr int64_t kMaxRestarts = 10;

}  // namespace

absl::Status RequeueInterrupted(const JobLog& log) {
  ASSIGN_OR_RETURN(std::vector<Job> interrupted, log.store().InState(JobState::kRunning));
  for (Job& job : interrupted) {
    RETURN_IF_ERROR(log.MoveTo(&job, JobState::kQueued, kStartedAgain));
    ASSIGN_OR_RETURN(const int64_t restarts, log.store().CountSinceProgress(job.id, kStartedAgain));
    if (restarts < kMaxRestarts) continue;
    RETURN_IF_ERROR(log.MoveTo(
        &job, JobState::kFailed,
        absl::StrCat("the daemon died ", restarts, " times while it ran, at step ", job.step, "; limit: ", kMaxRestarts,
                     "; it may need more memory than there is: a smaller micro_batch_size or max_length takes less")));
  }
  return absl::OkStatus();
}

}  // namespace lorad
