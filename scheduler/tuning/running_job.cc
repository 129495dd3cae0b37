#include "scheduler/tuning/running_job.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int kKeptCheckpoints = 2;  // the newest, and the one before it in case that is damaged

}  // namespace

RunningJob::RunningJob(const JobSurroundings* surroundings, const JobLog* log, Job job)
    : surroundings_(*surroundings), log_(*log), job_(std::move(job)) {}

std::string RunningJob::folder() const { return absl::StrCat(surroundings_.jobs_dir, "/", job_.id); }

absl::Status RunningJob::Begin() {
  ASSIGN_OR_RETURN(plan_, surroundings_.plan(job_));
  ASSIGN_OR_RETURN(checkpoints_, Checkpoints::Open(absl::StrCat(folder(), "/checkpoints")));
  RETURN_IF_ERROR(GoOnFromCheckpoint());
  saved_step_ = job_.step;
  step_began_ = std::chrono::steady_clock::now();
  return absl::OkStatus();
}

absl::Status RunningJob::GoOnFromCheckpoint() {
  for (const int64_t step : checkpoints_->Steps()) {
    const absl::StatusOr<Checkpoints::Found> found = checkpoints_->Read(step);
    absl::Status status = found.status();
    if (status.ok()) status = plan_.trainer->LoadState(found->state_path);
    if (status.ok()) {
      job_.step = found->step;
      job_.trained_tokens = found->trained_tokens;
      return log_.Store(job_, EventOf(job_, absl::StrCat("goes on from the checkpoint of step ", step)));
    }
    const std::string message = absl::StrCat("checkpoint of step ", step, " is not used: ", status.message());
    RETURN_IF_ERROR(log_.Store(job_, EventOf(job_, message)));
    RETURN_IF_ERROR(checkpoints_->Remove(step));
  }
  job_.step = 0;
  job_.trained_tokens = 0;
  return absl::OkStatus();
}

absl::Status RunningJob::Record(const StepReport& report) {
  const auto now = std::chrono::steady_clock::now();
  job_.step = report.step;
  job_.last_loss = report.loss;
  job_.trained_tokens += report.trained_tokens;
  JobEvent event = EventOf(job_, "");
  event.loss = report.loss;
  event.grad_norm = report.grad_norm;
  event.learning_rate = report.learning_rate;
  tokens_per_second_ = static_cast<double>(report.tokens) / std::chrono::duration<double>(now - step_began_).count();
  event.tokens_per_second = tokens_per_second_;
  step_began_ = now;
  RETURN_IF_ERROR(log_.Store(job_, std::move(event)));
  const bool due = plan_.trainer->done() || report.step % plan_.checkpoint_every_steps == 0;
  return due ? Save() : absl::OkStatus();
}

absl::Status RunningJob::Save() {
  if (saved_step_ == job_.step) return absl::OkStatus();
  RETURN_IF_ERROR(checkpoints_->Write(job_.step, job_.trained_tokens, kKeptCheckpoints,
                                      [&](const std::string& path) { return plan_.trainer->SaveState(path); }));
  saved_step_ = job_.step;
  return absl::OkStatus();
}

void RunningJob::LeaveAs(JobState state, std::string reason) {
  plan_.trainer.reset();
  leaving_state_ = state;
  leaving_reason_ = std::move(reason);
}

absl::Status RunningJob::StoreLeaving() { return log_.MoveTo(&job_, leaving_state_, leaving_reason_); }

absl::Status RunningJob::Finish(std::string* remark) {
  const std::string adapter = absl::StrCat(folder(), "/adapter");
  const std::string unfinished = absl::StrCat(adapter, ".unfinished");
  RETURN_IF_ERROR(RemoveFolder(unfinished));
  RETURN_IF_ERROR(MakeFolders(unfinished));
  RETURN_IF_ERROR(plan_.trainer->SaveAdapter(unfinished, surroundings_.base_name));
  if (!plan_.publish) {
    RETURN_IF_ERROR(RemoveFolder(adapter));
    return RenameSynced(unfinished, adapter);
  }
  Revisions& revisions = *surroundings_.revisions;
  ASSIGN_OR_RETURN(const std::string revision, revisions.Take(job_.name, unfinished));
  const std::string kept = revisions.Folder(revision);
  if (const absl::Status status = surroundings_.publish(job_.name, kept); !status.ok()) {
    *remark = absl::StrCat("trained, but not served: ", status.ToString(), "; LoadAdapter reads it from ", kept);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(revisions.MakeCurrent(job_.name, revision));
  job_.revision = revision;
  return absl::OkStatus();
}

}  // namespace lorad
