#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/train/trainer.h"
#include "scheduler/tuning/checkpoints.h"
#include "scheduler/tuning/job.h"
#include "scheduler/tuning/job_log.h"
#include "scheduler/tuning/revisions.h"

namespace lorad {

// How a stored job is trained, made from its spec.
struct TuningPlan {
  std::unique_ptr<Trainer> trainer;
  int64_t checkpoint_every_steps = 0;
  bool publish = true;
  int64_t keep_revisions = 0;                     // of the name, with the best one and the current one; 0 = all
  bool begins_from_checkpoint = false;            // there must be one; there is no other way to begin
  bool keeps_beginning = false;                   // as a checkpoint, since it takes long to make
  std::map<std::string, std::string> provenance;  // is written into the adapter
  int64_t early_stopping_patience = 0;            // evaluations that may pass without a new best one; 0 = any number
  // Tries the adapter in the folder out before it is published; not OK: it is not. May be null.
  std::function<absl::Status(const std::string& folder)> validate = nullptr;
  // What the adapter in the folder answers to the job's prompts, for people. Null: none.
  std::function<absl::StatusOr<std::string>(const std::string& folder)> sample = nullptr;
};

// What a job takes of the memory that serving uses too.
struct JobBytes {
  int64_t state_bytes = 0;  // weights, gradients, optimizer
  int64_t batch_bytes = 0;  // its largest micro-batch; 0: not more than any
};

// What a running job needs of its surroundings.
struct JobSurroundings {
  std::string jobs_dir;  // a folder for each job, by id
  Revisions* revisions;
  std::string base_name;
  // What the trainer of `plan` will take; from shapes and lengths alone. Empty: nobody counts.
  std::function<absl::StatusOr<JobBytes>(const Job& job)> bytes;
  // Where the job has a checkpoint, its trainer may be of no use before that is loaded. May take minutes; `go_on` is
  // asked meanwhile.
  std::function<absl::StatusOr<TuningPlan>(const Job& job, const GoOnFn& go_on)> plan;
  // Serves the adapter folder under the name, in place of what has it if `replace`, and returns when it can be named,
  // or why not.
  std::function<absl::Status(const std::string& name, const std::string& folder, bool replace)> publish;
};

// One job while it runs: its trainer, its checkpoints, and what is stored of it.
//
// Threads  the worker's.
class RunningJob final {
 public:
  // Both outlive it.
  RunningJob(const JobSurroundings* surroundings, const JobLog* log, Job job);

  // Asks how much memory the job will take.
  absl::Status CountMemory();
  // Makes the trainer and goes on from the newest checkpoint that is whole; one that is damaged is told of and set
  // aside. Errors: FailedPrecondition: the checkpoint is of another base; Unavailable: it cannot be read now. Both
  // times it stays. `go_on`'s.
  absl::Status Begin(const GoOnFn& go_on = nullptr);
  // A step or an evaluation was done: stores it, with a checkpoint when one is due. The best weights so far are kept,
  // and the training ended when it is no use to go on.
  absl::Status Record(const StepReport& report);
  // A checkpoint of the steps done, unless there is one.
  absl::Status Save();
  // The last step is done: writes the adapter, which becomes a revision and what its name means; or, where the job is
  // not to be published, into the job's folder. What was trained stays when it cannot be served; `remark` says so then.
  // Once more, after a kill before StoreLeaving, it has the same result.
  absl::Status Finish(std::string* remark);

  // Gives the trainer up; the job is to be stored in this state. StoreLeaving may be tried again.
  void LeaveAs(JobState state, std::string reason);
  absl::Status StoreLeaving();

  Job& job() { return job_; }
  const Job& job() const { return job_; }
  double tokens_per_second() const { return tokens_per_second_; }  // of the last step
  Trainer* trainer() const { return plan_.trainer.get(); }
  const JobBytes& bytes() const { return bytes_; }  // none before CountMemory
  std::string folder() const;

 private:
  absl::Status GoOnFromCheckpoint(const GoOnFn& go_on);
  absl::Status RecordEvaluation(double loss);
  // Of what is published; none without evaluations.
  std::optional<double> EvalLossOfResult() const;
  // The adapter as a folder of the job's, whole or not at all; its path.
  absl::StatusOr<std::string> WriteAdapter(const char* name) const;

  const JobSurroundings& surroundings_;
  const JobLog& log_;
  Job job_;
  TuningPlan plan_;
  std::optional<Checkpoints> checkpoints_;
  JobBytes bytes_;
  int64_t saved_step_ = 0;
  std::optional<JobEvaluation> best_, last_;  // of the evaluations so far
  std::chrono::steady_clock::time_point step_began_;
  double tokens_per_second_ = 0;
  JobState leaving_state_ = JobState::kFailed;
  std::string leaving_reason_;
};

}  // namespace lorad
