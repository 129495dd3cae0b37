#include "scheduler/tuning/tuning_worker.h"

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/checkpoints.h"

namespace lorad {
namespace {

constexpr int kKeptCheckpoints = 2;  // the newest, and the one before it in case that is damaged

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

absl::Status StateForbids(const Job& job, const char* allowed) {
  return absl::FailedPreconditionError(
      absl::StrCat("job ", job.id, ": state: ", NameOf(job.state), "; limit: ", allowed));
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

}  // namespace

struct TuningWorker::Impl {
  explicit Impl(Parts given) : parts(std::move(given)) {}

  // What others want of the job that runs.
  enum class Wish : uint8_t { kNone, kPause, kCancel, kStop };

  void Run();
  void RunJob(Job job);
  absl::Status Train(Job* job, Wish* wish);
  absl::Status GoOnFromCheckpoint(Job* job, Trainer* trainer, Checkpoints* checkpoints);
  absl::Status Record(Job* job, const StepReport& report, double seconds);
  absl::Status Publish(Job* job, const TuningPlan& plan);
  absl::Status Store(const Job& job, JobEvent event);
  absl::Status MoveTo(Job* job, JobState state, std::string message);
  absl::StatusOr<Job> ChangeWaiting(const std::string& id, JobState to, const char* allowed,
                                    bool (*may)(JobState state), Wish if_running);
  Wish wish() {
    const std::lock_guard<std::mutex> lock(mutex);
    return stopping ? Wish::kStop : running_wish;
  }
  std::string Folder(const std::string& id) const { return absl::StrCat(parts.jobs_dir, "/", id); }

  const Parts parts;
  std::mutex mutex;  // of what follows, and of every change of a job that does not run
  std::condition_variable wake;
  std::string running_id;
  Wish running_wish = Wish::kNone;
  bool stopping = false;
  std::thread thread;
};

TuningWorker::TuningWorker(Parts parts) : impl_(std::make_unique<Impl>(std::move(parts))) {}
TuningWorker::~TuningWorker() { Stop(); }

std::string TuningWorker::JobFolder(const std::string& id) const { return impl_->Folder(id); }

absl::Status TuningWorker::Start() {
  ASSIGN_OR_RETURN(std::vector<Job> interrupted, impl_->parts.store->InState(JobState::kRunning));
  for (Job& job : interrupted) RETURN_IF_ERROR(impl_->MoveTo(&job, JobState::kQueued, "the daemon was started again"));
  ASSIGN_OR_RETURN(const std::vector<Job> succeeded, impl_->parts.store->InState(JobState::kSucceeded));
  std::map<std::string, const Job*> newest;
  for (const Job& job : succeeded) {
    if (!job.revision.empty()) newest[job.name] = &job;
  }
  for (const auto& [name, job] : newest) {
    // A folder that is gone or a name that a flag has taken is no reason not to start.
    (void)impl_->parts.publish(name, absl::StrCat(impl_->Folder(job->id), "/adapter"));
  }
  impl_->thread = std::thread([this] { impl_->Run(); });
  return absl::OkStatus();
}

void TuningWorker::Stop() {
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->wake.notify_all();
  if (impl_->thread.joinable()) impl_->thread.join();
}

absl::Status TuningWorker::Impl::Store(const Job& job, JobEvent event) {
  RETURN_IF_ERROR(parts.store->Update(job, &event));
  parts.changed(job.id);
  return absl::OkStatus();
}

absl::Status TuningWorker::Impl::MoveTo(Job* job, JobState state, std::string message) {
  Job moved = *job;
  moved.state = state;
  if (IsFinished(state)) moved.finished_us = UnixUs();
  moved.reason = message;
  RETURN_IF_ERROR(Store(moved, EventOf(moved, std::move(message))));
  *job = std::move(moved);
  return absl::OkStatus();
}

absl::Status TuningWorker::Accept(Job job, std::string message) {
  job.state = JobState::kQueued;
  job.created_us = UnixUs();
  JobEvent event = EventOf(job, std::move(message));
  RETURN_IF_ERROR(impl_->parts.store->Insert(job, &event));
  impl_->parts.changed(job.id);
  impl_->wake.notify_all();
  return absl::OkStatus();
}

absl::StatusOr<Job> TuningWorker::Impl::ChangeWaiting(const std::string& id, JobState to, const char* allowed,
                                                      bool (*may)(JobState state), Wish if_running) {
  std::unique_lock<std::mutex> lock(mutex);
  if (running_id == id && if_running != Wish::kNone) {
    running_wish = if_running;
    wake.wait(lock, [&] { return running_id != id; });
    lock.unlock();
    return parts.store->Get(id);
  }
  ASSIGN_OR_RETURN(Job job, parts.store->Get(id));
  if (job.state == to) return job;
  if (!may(job.state)) return StateForbids(job, allowed);
  RETURN_IF_ERROR(MoveTo(&job, to, "on request"));
  lock.unlock();
  wake.notify_all();
  return job;
}

absl::StatusOr<Job> TuningWorker::Cancel(const std::string& id) {
  return impl_->ChangeWaiting(
      id, JobState::kCancelled, "not finished", [](JobState state) { return !IsFinished(state); }, Impl::Wish::kCancel);
}

absl::StatusOr<Job> TuningWorker::Pause(const std::string& id) {
  return impl_->ChangeWaiting(
      id, JobState::kPaused, "queued or running", [](JobState state) { return state == JobState::kQueued; },
      Impl::Wish::kPause);
}

absl::StatusOr<Job> TuningWorker::Resume(const std::string& id) {
  return impl_->ChangeWaiting(
      id, JobState::kQueued, "paused", [](JobState state) { return state == JobState::kPaused; }, Impl::Wish::kNone);
}

absl::Status TuningWorker::Delete(const std::string& id) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  ASSIGN_OR_RETURN(const Job job, impl_->parts.store->Get(id));
  if (!IsFinished(job.state)) return StateForbids(job, "succeeded, failed or cancelled; cancel it first");
  RETURN_IF_ERROR(impl_->parts.store->Delete(id));
  impl_->parts.changed(id);
  return RemoveFolder(impl_->Folder(id));
}

void TuningWorker::Impl::Run() {
  while (true) {
    std::optional<Job> next;
    {
      std::unique_lock<std::mutex> lock(mutex);
      while (!stopping && !next.has_value()) {
        absl::StatusOr<std::optional<Job>> queued = parts.store->NextQueued();
        if (queued.ok()) next = *std::move(queued);
        if (next.has_value()) break;
        // A store that cannot be read is asked again: its disk may come back.
        if (queued.ok()) {
          wake.wait(lock);
        } else {
          wake.wait_for(lock, std::chrono::seconds(1));
        }
      }
      if (stopping) return;
      running_id = next->id;
      running_wish = Wish::kNone;
    }
    RunJob(*std::move(next));
    {
      const std::lock_guard<std::mutex> lock(mutex);
      running_id.clear();
    }
    wake.notify_all();
  }
}

void TuningWorker::Impl::RunJob(Job job) {
  Wish wish = Wish::kNone;
  absl::Status status = MoveTo(&job, JobState::kRunning, "");
  if (status.ok()) status = Train(&job, &wish);
  if (!status.ok()) {
    status = MoveTo(&job, JobState::kFailed, status.ToString());
  } else if (wish == Wish::kPause) {
    status = MoveTo(&job, JobState::kPaused, "on request");
  } else if (wish == Wish::kCancel) {
    status = MoveTo(&job, JobState::kCancelled, "on request");
  } else if (wish == Wish::kStop) {
    status = MoveTo(&job, JobState::kQueued, "the daemon ends");
  } else {
    status = MoveTo(&job, JobState::kSucceeded, "");
  }
  // Where even that cannot be stored, the job stays running in the store and goes on after the next start.
  (void)status;
}

absl::Status TuningWorker::Impl::GoOnFromCheckpoint(Job* job, Trainer* trainer, Checkpoints* checkpoints) {
  for (const int64_t step : checkpoints->Steps()) {
    const absl::StatusOr<Checkpoints::Found> found = checkpoints->Read(step);
    absl::Status status = found.status();
    if (status.ok()) status = trainer->LoadState(found->state_path);
    if (status.ok()) {
      job->step = found->step;
      job->trained_tokens = found->trained_tokens;
      return Store(*job, EventOf(*job, absl::StrCat("goes on from the checkpoint of step ", step)));
    }
    RETURN_IF_ERROR(
        Store(*job, EventOf(*job, absl::StrCat("checkpoint of step ", step, " is not used: ", status.message()))));
    RETURN_IF_ERROR(checkpoints->Remove(step));
  }
  job->step = 0;
  job->trained_tokens = 0;
  return absl::OkStatus();
}

absl::Status TuningWorker::Impl::Record(Job* job, const StepReport& report, double seconds) {
  job->step = report.step;
  job->last_loss = report.loss;
  job->trained_tokens += report.trained_tokens;
  JobEvent event = EventOf(*job, "");
  event.loss = report.loss;
  event.grad_norm = report.grad_norm;
  event.learning_rate = report.learning_rate;
  event.tokens_per_second = static_cast<double>(report.tokens) / seconds;
  return Store(*job, std::move(event));
}

absl::Status TuningWorker::Impl::Train(Job* job, Wish* wish) {
  ASSIGN_OR_RETURN(TuningPlan plan, parts.plan(*job));
  ASSIGN_OR_RETURN(Checkpoints checkpoints, Checkpoints::Open(absl::StrCat(Folder(job->id), "/checkpoints")));
  RETURN_IF_ERROR(GoOnFromCheckpoint(job, plan.trainer.get(), &checkpoints));
  const auto checkpoint = [&]() -> absl::Status {
    return checkpoints.Write(job->step, job->trained_tokens, kKeptCheckpoints,
                             [&](const std::string& path) { return plan.trainer->SaveState(path); });
  };
  int64_t saved_step = job->step;
  auto began = std::chrono::steady_clock::now();
  while (!plan.trainer->done()) {
    *wish = this->wish();
    if (*wish != Wish::kNone)
      return *wish == Wish::kCancel || saved_step == job->step ? absl::OkStatus() : checkpoint();
    std::optional<StepReport> report;
    {
      const ComputeGate::Turn turn = parts.gate->EnterTraining();
      ASSIGN_OR_RETURN(report, plan.trainer->Advance());
    }
    if (!report.has_value()) continue;
    const auto now = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(Record(job, *report, std::chrono::duration<double>(now - began).count()));
    began = now;
    if (plan.trainer->done() || report->step % plan.checkpoint_every_steps == 0) {
      RETURN_IF_ERROR(checkpoint());
      saved_step = report->step;
    }
  }
  return Publish(job, plan);
}

absl::Status TuningWorker::Impl::Publish(Job* job, const TuningPlan& plan) {
  const std::string folder = absl::StrCat(Folder(job->id), "/adapter");
  const std::string unfinished = absl::StrCat(folder, ".unfinished");
  RETURN_IF_ERROR(RemoveFolder(unfinished));
  RETURN_IF_ERROR(MakeFolders(unfinished));
  RETURN_IF_ERROR(plan.trainer->SaveAdapter(unfinished, parts.base_name));
  RETURN_IF_ERROR(RemoveFolder(folder));
  RETURN_IF_ERROR(RenameSynced(unfinished, folder));
  if (!plan.publish) return absl::OkStatus();
  if (const absl::Status status = parts.publish(job->name, folder); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("publishing ", folder, ": ", status.message()));
  }
  ASSIGN_OR_RETURN(const std::string digest, FileDigest(absl::StrCat(folder, "/adapter_model.safetensors")));
  job->revision = absl::StrCat(job->name, "@", digest.substr(0, 12));
  return absl::OkStatus();
}

}  // namespace lorad
