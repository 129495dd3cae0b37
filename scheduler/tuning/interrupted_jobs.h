#pragma once

#include "absl/status/status.h"
#include "scheduler/tuning/job_log.h"

namespace lorad {

// Puts the jobs that were running when the daemon ended back into the queue; one that was so again and again without a
// new step fails, since it is what ends the daemon. Errors: the store's.
absl::Status RequeueInterrupted(const JobLog& log);

}  // namespace lorad
