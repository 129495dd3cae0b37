#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/train/trainer.h"
#include "scheduler/compute_gate.h"
#include "scheduler/tuning/job.h"
#include "scheduler/tuning/job_store.h"

namespace lorad {

// How a stored job is trained, made from its spec.
struct TuningPlan {
  std::unique_ptr<Trainer> trainer;
  int64_t checkpoint_every_steps = 0;
  bool publish = true;
};

// Runs the queued jobs, one at a time, on a thread of its own, a slice at a time at the gate's turns. Owns what
// happens to a job after it was accepted: each state is stored before anybody is told.
//
// A job goes on from its newest checkpoint that is whole, after a pause, an orderly end or a kill alike. When its last
// step is done, the adapter is written into the job's folder and published under its name.
//
// Threads  any, but Start and Stop: the owner's.
// Errors   NotFound: no such job. FailedPrecondition: its state forbids it, naming the state.
class TuningWorker final {
 public:
  struct Parts {
    JobStore* store;
    ComputeGate* gate;
    std::string jobs_dir;  // a folder for each job, by id
    std::string base_name;
    std::function<absl::StatusOr<TuningPlan>(const Job& job)> plan;
    // Serves the adapter folder under the name and returns when it can be named, or why not.
    std::function<absl::Status(const std::string& name, const std::string& folder)> publish;
    // An event of the job was stored, or the job deleted; from any thread, must not block.
    std::function<void(const std::string& job_id)> changed;
  };
  explicit TuningWorker(Parts parts);
  ~TuningWorker();

  // Puts jobs that were running when the daemon ended back into the queue, serves what succeeded jobs made, and begins.
  absl::Status Start();
  // Stores what is under way as a checkpoint and ends; the job goes on when the daemon comes back.
  void Stop();

  // The job's folder, with its data, is there already. Stores it as queued.
  absl::Status Accept(Job job, std::string message);
  absl::StatusOr<Job> Cancel(const std::string& id);
  absl::StatusOr<Job> Pause(const std::string& id);
  absl::StatusOr<Job> Resume(const std::string& id);
  absl::Status Delete(const std::string& id);  // a finished one, with its folder

  std::string JobFolder(const std::string& id) const;

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
