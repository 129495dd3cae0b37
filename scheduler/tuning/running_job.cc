#include "scheduler/tuning/running_job.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int kKeptCheckpoints = 2;  // the newest, and the one before it in case that is damaged
constexpr const char* kBestFolder = "best";
constexpr const char* kSampledFolder = "sampled";

}  // namespace

RunningJob::RunningJob(const JobSurroundings* surroundings, const JobLog* log, Job job)
    : surroundings_(*surroundings), log_(*log), job_(std::move(job)) {}

std::string RunningJob::folder() const { return absl::StrCat(surroundings_.jobs_dir, "/", job_.id); }

absl::Status RunningJob::CountMemory() {
  if (!surroundings_.bytes) return absl::OkStatus();
  ASSIGN_OR_RETURN(bytes_, surroundings_.bytes(job_));
  return absl::OkStatus();
}

absl::Status RunningJob::Begin(const GoOnFn& go_on) {
  ASSIGN_OR_RETURN(plan_, surroundings_.plan(job_, go_on));
  ASSIGN_OR_RETURN(checkpoints_, Checkpoints::Open(absl::StrCat(folder(), "/checkpoints")));
  RETURN_IF_ERROR(GoOnFromCheckpoint(go_on));
  saved_step_ = job_.step;
  step_began_ = std::chrono::steady_clock::now();
  return absl::OkStatus();
}

absl::Status RunningJob::GoOnFromCheckpoint(const GoOnFn& go_on) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, checkpoints_->Steps());
  for (const int64_t step : steps) {
    const absl::StatusOr<Checkpoints::Found> found = checkpoints_->Read(step);
    absl::Status status = found.status();
    if (status.ok()) status = plan_.trainer->LoadState(found->state_path);
    if (status.ok()) {
      job_.step = found->step;
      job_.trained_tokens = found->trained_tokens;
      if (step == 0) return absl::OkStatus();
      return log_.Store(job_, EventOf(job_, absl::StrCat("goes on from the checkpoint of step ", step)));
    }
    if (absl::IsFailedPrecondition(status)) return status;  // whole, but of another base
    if (!IsDamaged(status)) {
      return absl::UnavailableError(absl::StrCat("checkpoint of step ", step, " cannot be read now, and stays: ",
                                                 status.message(), "; resume the job when it can"));
    }
    const std::string message = absl::StrCat("checkpoint of step ", step, " is set aside: ", status.message());
    RETURN_IF_ERROR(log_.Store(job_, EventOf(job_, message)));
    RETURN_IF_ERROR(checkpoints_->SetAside(step));
  }
  if (plan_.begins_from_checkpoint) {
    return absl::DataLossError("no checkpoint is left, and init_adapter may have changed; submit the job again");
  }
  if (!steps.empty()) {  // Made for a checkpoint, and there is none any more.
    plan_.trainer.reset();
    ASSIGN_OR_RETURN(plan_, surroundings_.plan(job_, go_on));
  }
  job_.step = 0;
  job_.trained_tokens = 0;
  if (!plan_.keeps_beginning) return absl::OkStatus();
  return checkpoints_->Write(/*step=*/0, /*trained_tokens=*/0, kKeptCheckpoints,
                             [&](const std::string& path) { return plan_.trainer->SaveState(path); });
}

absl::Status RunningJob::RecordEvaluation(double loss) {
  JobEvent event = EventOf(job_, "");
  event.eval_loss = loss;
  RETURN_IF_ERROR(log_.Store(job_, std::move(event)));
  ASSIGN_OR_RETURN(const std::vector<JobEvaluation> evaluations, log_.store().Evaluations(job_.id));
  int64_t since_best = 0;
  best_.reset();
  last_ = {job_.step, loss};
  for (const JobEvaluation& evaluation : evaluations) {
    if (evaluation.step > job_.step) continue;  // of a run that a kill undid
    ++since_best;
    if (best_.has_value() && evaluation.loss >= best_->loss) continue;
    best_ = evaluation;
    since_best = 0;
  }
  const bool wanted = plan_.early_stopping_patience > 0 && since_best == 0;
  if (wanted || plan_.sample != nullptr) {
    ASSIGN_OR_RETURN(const std::string folder, WriteAdapter(wanted ? kBestFolder : kSampledFolder));
    if (plan_.sample != nullptr) {
      const absl::StatusOr<std::string> answers = plan_.sample(folder);
      const std::string told = answers.ok() ? *answers : absl::StrCat("eval_prompts: ", answers.status().message());
      RETURN_IF_ERROR(log_.Store(job_, EventOf(job_, told)));
    }
  }
  if (plan_.early_stopping_patience > 0 && since_best >= plan_.early_stopping_patience) plan_.trainer->EndEarly();
  step_began_ = std::chrono::steady_clock::now();
  return absl::OkStatus();
}

std::optional<double> RunningJob::EvalLossOfResult() const {
  const std::optional<JobEvaluation>& of_result = plan_.early_stopping_patience > 0 ? best_ : last_;
  return of_result.has_value() ? std::optional<double>(of_result->loss) : std::nullopt;
}

absl::StatusOr<std::string> RunningJob::WriteAdapter(const char* name) const {
  const std::string path = absl::StrCat(folder(), "/", name);
  const std::string unfinished = absl::StrCat(path, ".unfinished");
  RETURN_IF_ERROR(RemoveFolder(unfinished));
  RETURN_IF_ERROR(MakeFolders(unfinished));
  std::map<std::string, std::string> provenance = plan_.provenance;
  provenance["lorad.step"] = absl::StrCat(job_.step);
  const absl::StatusOr<std::string> parent = surroundings_.revisions->Current(job_.name);
  if (parent.ok()) provenance["lorad.parent_revision"] = *parent;
  RETURN_IF_ERROR(plan_.trainer->SaveAdapter(unfinished, surroundings_.base_name, provenance));
  RETURN_IF_ERROR(RemoveFolder(path));
  RETURN_IF_ERROR(RenameSynced(unfinished, path));
  return path;
}

absl::Status RunningJob::Record(const StepReport& report) {
  if (report.eval_loss.has_value()) return RecordEvaluation(*report.eval_loss);
  const auto now = std::chrono::steady_clock::now();
  job_.step = report.step;
  job_.last_loss = report.loss;
  job_.trained_tokens += report.trained_tokens;
  JobEvent event = EventOf(job_, "");
  event.loss = report.loss;
  event.aux_loss = report.router_loss;
  event.grad_norm = report.grad_norm;
  event.learning_rate = report.learning_rate;
  tokens_per_second_ = static_cast<double>(report.tokens) / std::chrono::duration<double>(now - step_began_).count();
  event.tokens_per_second = tokens_per_second_;
  step_began_ = now;
  RETURN_IF_ERROR(log_.Store(job_, std::move(event)));
  const bool due = report.step == job_.total_steps || report.step % plan_.checkpoint_every_steps == 0;
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

absl::Status RunningJob::StoreLeaving() {
  RETURN_IF_ERROR(log_.MoveTo(&job_, leaving_state_, leaving_reason_));
  // Finish may be done again until here.
  if (job_.state == JobState::kSucceeded) (void)RemoveFolder(absl::StrCat(folder(), "/", kBestFolder));
  return absl::OkStatus();
}

absl::Status RunningJob::Finish(std::string* remark) {
  ASSIGN_OR_RETURN(const std::string adapter, WriteAdapter("adapter"));
  if (plan_.early_stopping_patience > 0 && best_.has_value() && best_->step != job_.step) {
    RETURN_IF_ERROR(CopyFolder(absl::StrCat(folder(), "/", kBestFolder), adapter));
    *remark = absl::StrCat(job_.step < job_.total_steps ? "stopped early; " : "", "the best is step ", best_->step,
                           ", eval loss ", best_->loss);
  }
  if (!plan_.publish) return absl::OkStatus();
  Revisions& revisions = *surroundings_.revisions;
  ASSIGN_OR_RETURN(const std::string revision, revisions.Take(job_.name, adapter, EvalLossOfResult()));
  const std::string kept = revisions.Folder(revision);
  absl::Status status = plan_.validate == nullptr ? absl::OkStatus() : plan_.validate(kept);
  if (status.ok()) status = surroundings_.publish(job_.name, kept, /*replace=*/true);
  if (!status.ok()) {
    *remark = absl::StrCat("trained, but not served: ", status.ToString(), "; LoadAdapter reads it from ", kept);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(revisions.MakeCurrent(job_.name, revision));
  job_.revision = revision;
  return plan_.keep_revisions > 0 ? revisions.Prune(job_.name, plan_.keep_revisions) : absl::OkStatus();
}

}  // namespace lorad
