#include "scheduler/tuning/batch_turns.h"

#include <utility>

#include "absl/status/statusor.h"

namespace lorad {

std::vector<RunningJob*> BatchTurns::Pick(const std::vector<std::unique_ptr<RunningJob>>& jobs, int64_t* room_rows) {
  while (!to_try_alone_.empty()) {
    const std::string id = std::move(to_try_alone_.front());
    to_try_alone_.pop_front();
    for (const auto& job : jobs) {
      if (job->job().id == id) return {job.get()};
    }
  }
  std::vector<RunningJob*> members;
  const size_t first = next_, count = jobs.size();
  for (size_t i = 0; i < count; ++i) {
    RunningJob* const job = jobs[(first + i) % count].get();
    const absl::StatusOr<int64_t> more = job->trainer()->NextRows();
    // Examples that cannot be read fail their job when it is alone.
    if (!more.ok() || (!members.empty() && *more > *room_rows)) {
      if (members.empty()) return {job};
      next_ = (first + i) % count;
      break;
    }
    members.push_back(job);
    *room_rows -= *more;
  }
  return members;
}

}  // namespace lorad
