#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/compute_gate.h"
#include "scheduler/tuning/job.h"
#include "scheduler/tuning/job_desk.h"
#include "scheduler/tuning/job_store.h"
#include "scheduler/tuning/running_job.h"
#include "scheduler/tuning/training_memory.h"
#include "scheduler/tuning/training_runs.h"
#include "scheduler/tuning/tuning_stats.h"

namespace lorad {

class CausalLm;

// Runs the queued jobs, and callers' own runs, on a thread of its own, several in one batch, at the gate's turns. Owns
// what happens to a job after it was accepted: each state is stored before anybody is told.
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
    CausalLm* model;
    int64_t max_jobs = 1;                          // that run at once
    int64_t max_batch_rows = 1;                    // of a batch of several jobs; a job alone may have more
    int64_t activation_bytes = 0;                  // held while a job runs or there are runs
    int64_t run_batch_bytes = 0;                   // as TrainingMemory
    int64_t kept_bytes = SharedBatch::kKeptBytes;  // of them, as SharedBatch
    TrainingMemory::HoldFn hold;                   // of the memory shared with serving; empty: nobody counts
    TrainingRuns* runs = nullptr;                  // share the batches; null: none
    JobSurroundings surroundings;
    // An event of the job was stored, or the job deleted; from any thread, must not block.
    std::function<void(const std::string& job_id)> changed;
  };
  explicit TuningWorker(Parts parts);
  ~TuningWorker();

  // Puts jobs that were running when the daemon ended back into the queue, serves what names mean, and begins.
  absl::Status Start();
  // Stores what is under way as a checkpoint and ends; the job goes on when the daemon comes back.
  void Stop();

  // The job's folder, with its data, is there already. Stores it as queued.
  absl::Status Accept(Job job, std::string message);
  // `reply` is called once: before the call returns, or on the worker's thread when a job that runs has let go.
  using Reply = JobDesk::Reply;
  void Cancel(const std::string& id, Reply reply);
  void Pause(const std::string& id, Reply reply);
  void Resume(const std::string& id, Reply reply);
  absl::Status Delete(const std::string& id);  // a finished one, with its folder

  // The runs have work, or less memory.
  void Wake();
  // The runs want to hold what they say from now on. Errors: of Parts::hold; what is held stays as it was then.
  absl::Status HoldForRuns();
  // Calls `slice` in a turn of training's, between the worker's own: what makes a run uses the device so.
  void InTurn(const std::function<void()>& slice);

  TuningStats stats() const;
  std::string JobFolder(const std::string& id) const;

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
