#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/tuning/job.h"

namespace lorad {

// Jobs and their events in an SQLite file. What a call has stored survives a kill at any moment after it returned, and
// a call that was killed stored all or nothing (write-ahead log, synchronous).
//
// Threads  any.
// Errors   ResourceExhausted: the disk is full. DataLoss: not our file, or damaged. FailedPrecondition: a newer lorad's
//          file. NotFound: no such job.
class JobStore final {
 public:
  // Creates the file when there is none, and brings an older one to today's schema.
  static absl::StatusOr<std::unique_ptr<JobStore>> Open(const std::string& path);
  ~JobStore();

  // Both in one transaction; the event gets its sequence. AlreadyExists: the id or the idempotency key.
  absl::Status Insert(const Job& job, JobEvent* event);
  absl::Status Update(const Job& job, JobEvent* event);
  absl::Status Delete(const std::string& id);  // with its events

  absl::StatusOr<Job> Get(const std::string& id) const;
  absl::StatusOr<std::optional<Job>> FindByKey(const std::string& idempotency_key) const;
  // Newest first, from behind the job `after_id` ("" = from the newest); at most `limit`. Errors: InvalidArgument, no
  // such job.
  absl::StatusOr<std::vector<Job>> List(const std::string& after_id, int64_t limit) const;
  // How often this was a job's event since it first came to its furthest step.
  absl::StatusOr<int64_t> CountSinceProgress(const std::string& id, const std::string& message) const;
  absl::StatusOr<std::vector<Job>> InState(JobState state) const;  // oldest first
  // The queued job of the highest priority, the oldest of those.
  absl::StatusOr<std::optional<Job>> NextQueued() const;
  // By step; a step that was done again counts as it came out last.
  absl::StatusOr<std::vector<JobEvaluation>> Evaluations(const std::string& id) const;
  absl::StatusOr<std::vector<JobEvent>> Events(const std::string& id, int64_t after_sequence, int64_t limit) const;

 private:
  struct Impl;
  explicit JobStore(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
