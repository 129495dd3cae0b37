#include "scheduler/tuning/job_log.h"

#include <chrono>
#include <utility>

#include "model/base/status_macros.h"

namespace lorad {

int64_t UnixUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

const char* NameOf(JobState state) {
  switch (state) {
    case JobState::kQueued:
      return "queued";
    case JobState::kRunning:
      return "running";
    case JobState::kPaused:
      return "paused";
    case JobState::kSucceeded:
      return "succeeded";
    case JobState::kFailed:
      return "failed";
    case JobState::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

JobEvent EventOf(const Job& job, std::string message) {
  JobEvent event;
  event.job_id = job.id;
  event.state = job.state;
  event.step = job.step;
  event.message = std::move(message);
  event.at_us = UnixUs();
  return event;
}

absl::Status JobLog::Store(const Job& job, JobEvent event) const {
  RETURN_IF_ERROR(store_->Update(job, &event));
  changed_(job.id);
  return absl::OkStatus();
}

absl::Status JobLog::MoveTo(Job* job, JobState state, std::string reason) const {
  Job moved = *job;
  moved.state = state;
  if (IsFinished(state)) moved.finished_us = UnixUs();
  moved.reason = reason;
  RETURN_IF_ERROR(Store(moved, EventOf(moved, std::move(reason))));
  *job = std::move(moved);
  return absl::OkStatus();
}

}  // namespace lorad
