#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/tuning/running_job.h"

namespace lorad {

// Which running jobs share the next batch: all whose next micro-batches fit it, else they take turns.
//
// Threads  the worker's.
class BatchTurns final {
 public:
  struct Round {
    std::vector<RunningJob*> members;  // one at least where any job can be read
    // Jobs whose next examples cannot be read, and why: they would fail the batch for all that share it.
    std::vector<std::pair<RunningJob*, absl::Status>> unreadable;
  };
  // Of `jobs`. Takes the members' rows off `room_rows`.
  Round Pick(const std::vector<std::unique_ptr<RunningJob>>& jobs, int64_t* room_rows);
  // After a batch of several that failed: each job is tried once with nobody beside it.
  void TryAlone(const std::string& id) { to_try_alone_.push_back(id); }
  bool tries_alone() const { return !to_try_alone_.empty(); }
  // The jobs are others now.
  void Restart() { next_ = 0; }

 private:
  size_t next_ = 0;  // whose turn it is to be first
  std::deque<std::string> to_try_alone_;
};

}  // namespace lorad
