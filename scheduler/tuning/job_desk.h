#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/compute_gate.h"
#include "scheduler/tuning/job.h"
#include "scheduler/tuning/job_log.h"
#include "scheduler/tuning/tuning_stats.h"

namespace lorad {

// Where callers say what is to become of jobs. What concerns a job that does not run is stored at once; what concerns
// one that does is a wish, which the worker grants between two batches.
//
// Threads  as said.
// Errors   NotFound: no such job. FailedPrecondition: its state forbids it, naming the state.
class JobDesk final {
 public:
  // `log` and `gate` outlive it; the gate is told to hurry when a wish waits.
  JobDesk(const JobLog* log, ComputeGate* gate) : log_(*log), gate_(*gate) {}

  // Any thread.
  absl::Status Accept(Job job, std::string message);
  // `reply` is called once: before the call returns, or on the worker's thread when a job that runs has let go.
  using Reply = std::function<void(absl::StatusOr<Job>)>;
  void Cancel(const std::string& id, Reply reply);
  void Pause(const std::string& id, Reply reply);
  void Resume(const std::string& id, Reply reply);
  absl::Status Delete(const std::string& id);  // a finished one
  void Wake();                                 // there is work other than jobs, or memory is wanted
  void Stop();
  bool stopping() const;
  TuningStats stats() const;  // of jobs, not of how the model's time is shared

  // The worker's.
  enum class Wish : uint8_t { kNone, kPause, kCancel };  // the greater one is granted
  // The next queued job, which runs from now on, if fewer than `most` do. Errors: the store's.
  absl::StatusOr<std::optional<Job>> TakeQueued(int64_t most);
  // Until something is new since the last call returned, or for at most so long.
  void Await(std::optional<std::chrono::seconds> at_most);
  Wish WishOf(const std::string& id) const;
  void CalmGate();  // all wishes so far are seen; a later one hurries it anew
  void CountStep(const TuningStats::RunningJob& step, int64_t tokens);
  // The job, as it is stored now, has let go: whoever waits for it is answered.
  void Leave(const Job& job);

 private:
  struct Running {
    Wish wish = Wish::kNone;
    std::vector<Reply> replies;
    std::optional<TuningStats::RunningJob> last_step;
  };
  void Change(const std::string& id, JobState to, const char* allowed, bool (*may)(JobState state), Wish if_running,
              Reply reply);

  const JobLog& log_;
  ComputeGate& gate_;
  mutable std::mutex mutex_;  // of what follows, and of every change of a job that does not run
  std::condition_variable wake_;
  std::map<std::string, Running> running_;  // by id
  int64_t steps_ = 0, tokens_ = 0;          // from the start
  bool changed_ = false;
  bool stopping_ = false;
};

}  // namespace lorad
