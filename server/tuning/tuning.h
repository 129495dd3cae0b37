#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lorad/v1/adapters.pb.h"
#include "lorad/v1/finetuning.pb.h"
#include "scheduler/command.h"
#include "scheduler/tuning/job_store.h"
#include "scheduler/tuning/tuning_worker.h"

namespace lorad {

class CausalLm;
class ChatTemplate;
class Log;
struct Backend;
struct ModelFacts;

// Fine-tuning as the services see it: takes jobs in, keeps them, runs them, tells of them. Everything it keeps lies in
// one folder:
//   jobs.db              jobs, events, revisions (scheduler/tuning/job_store.h, revisions.h)
//   jobs/ID/data.*       the examples as they were accepted; jobs/ID/init_adapter: what it begins from
//   jobs/ID/checkpoints; jobs/ID/adapter: a result that is not to be published
//   revisions/NAME@REV   what was published
//   runs/ID              of service Training (scheduler/tuning/training_runs.h)
//
// Threads  any. Data are read on a thread of its own, one submission after the other, and runs made on another.
class Tuning final {
 public:
  struct Parts {
    const Backend* backend;  // its engine runs
    CausalLm* model;
    BaseTables base_tables;
    ComputeGate* gate;
    std::string state_dir;
    absl::StatusOr<std::shared_ptr<const ChatTemplate>> chat_template;  // or why the model has none
    int64_t max_jobs;                                                   // that train at once, in one batch
    int64_t memory_bytes;                                               // that serving and training share
    Log* log;
  };
  // Errors: of the folder and the store; FailedPrecondition when another daemon has the folder.
  static absl::StatusOr<std::unique_ptr<Tuning>> Start(Parts parts);
  ~Tuning();
  // Stores what is under way; jobs go on at the next start. Watchers get their end.
  void Stop();

  using JobReply = std::function<void(absl::StatusOr<v1::Job>)>;
  // Reads and checks all of the data, unless `cancelled` says that nobody wants it any more, then stores the job.
  // `reply` is called once, on another thread. Errors, also later: ResourceExhausted when too many submissions wait.
  using Cancelled = std::function<bool()>;
  absl::Status Submit(v1::SubmitJobRequest request, Cancelled cancelled, JobReply reply);
  using PreviewReply = std::function<void(absl::StatusOr<v1::PreviewExampleResponse>)>;
  absl::Status Preview(v1::PreviewExampleRequest request, Cancelled cancelled, PreviewReply reply);

  // `reply` is called once: at once, or later on another thread when a job that runs has let go.
  void Cancel(const std::string& id, JobReply reply);
  void Pause(const std::string& id, JobReply reply);
  void Resume(const std::string& id, JobReply reply);
  absl::Status Delete(const std::string& id);
  absl::StatusOr<v1::Job> Get(const std::string& id) const;
  absl::Status List(const v1::ListJobsRequest& request, v1::ListJobsResponse* response) const;
  const JobStore& store() const;
  // Service Training. `reply` is called once, on another thread; Cancelled where `cancelled` said so in time.
  absl::Status CreateRun(v1::CreateRunRequest request, Cancelled cancelled,
                         std::function<void(absl::StatusOr<RunInfo>)> reply);
  TrainingRuns* runs();
  const ModelFacts& model() const;
  // Makes `name` mean the revision (as Revisions::Target): requests from now on run on it, those before end on theirs.
  // `reply` is called once, perhaps on another thread.
  void Rollback(const std::string& name, const std::string& revision, AdapterReply reply);
  // Revisions of an adapter that was trained here: all, and the one that `adapter` is.
  void FillRevisions(v1::Adapter* adapter) const;
  TuningStats stats() const;

  // `notify` is called after each change of a job, and at the end of the daemon, from any thread; not after Unwatch.
  int64_t Watch(const std::string& job_id, std::function<void()> notify);
  void Unwatch(int64_t watch);
  bool stopping() const;

 private:
  struct Impl;
  explicit Tuning(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

// Errors: the backend's; FailedPrecondition without --state-dir, naming `service` and what would be `kept` there.
absl::StatusOr<Tuning*> TuningOrOff(const absl::StatusOr<const Backend*>& backend, std::string_view service,
                                    std::string_view kept);

// Where revisions lie: NAME@REV is the sub-folder of that name.
std::string RevisionsDir(const std::string& state_dir);

}  // namespace lorad
