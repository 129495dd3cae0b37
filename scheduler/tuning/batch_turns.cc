#include "scheduler/tuning/batch_turns.h"

#include <utility>

#include "absl/status/statusor.h"

namespace lorad {

BatchTurns::Round BatchTurns::Pick(const std::vector<std::unique_ptr<RunningJob>>& jobs, int64_t* room_rows) {
  while (!to_try_alone_.empty()) {
    const std::string id = std::move(to_try_alone_.front());
    to_try_alone_.pop_front();
    for (const auto& job : jobs) {
      if (job->job().id == id) return {.members = {job.get()}, .unreadable = {}};
    }
  }
  Round round;
  const size_t first = next_, count = jobs.size();
  for (size_t i = 0; i < count; ++i) {
    RunningJob* const job = jobs[(first + i) % count].get();
    const absl::StatusOr<int64_t> more = job->trainer()->NextRows();
    if (!more.ok()) {
      round.unreadable.emplace_back(job, more.status());
      continue;
    }
    if (!round.members.empty() && *more > *room_rows) {
      next_ = (first + i) % count;
      break;
    }
    round.members.push_back(job);
    *room_rows -= *more;
  }
  return round;
}

}  // namespace lorad
