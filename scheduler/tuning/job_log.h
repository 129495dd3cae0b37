#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "scheduler/tuning/job.h"
#include "scheduler/tuning/job_store.h"

namespace lorad {

int64_t UnixUs();  // microseconds since 1970
const char* NameOf(JobState state);
// The job as it is now, as an event.
JobEvent EventOf(const Job& job, std::string message);

// Stores what happens to jobs, and tells of it once it is stored.
//
// Threads  any, for different jobs.
class JobLog final {
 public:
  // `changed`: an event of the job was stored; must not block.
  JobLog(JobStore* store, std::function<void(const std::string& job_id)> changed)
      : store_(store), changed_(std::move(changed)) {}

  JobStore& store() const { return *store_; }
  void Tell(const std::string& job_id) const { changed_(job_id); }
  absl::Status Store(const Job& job, JobEvent event) const;
  // The job in another state, with the reason for it; unchanged on an error.
  absl::Status MoveTo(Job* job, JobState state, std::string reason) const;

 private:
  JobStore* const store_;
  const std::function<void(const std::string& job_id)> changed_;
};

}  // namespace lorad
