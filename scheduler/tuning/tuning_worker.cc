#include "scheduler/tuning/tuning_worker.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/train/device_turns.h"
#include "adapters/train/shared_batch.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/batch_turns.h"
#include "scheduler/tuning/checkpoints.h"
#include "scheduler/tuning/interrupted_jobs.h"
#include "scheduler/tuning/job_desk.h"
#include "scheduler/tuning/job_log.h"
#include "scheduler/tuning/training_memory.h"
#include "scheduler/tuning/training_pace.h"

namespace lorad {
namespace {

constexpr std::chrono::seconds kRetry(1);  // a disk or a memory that is full now may not be later

constexpr const char* kDaemonEnds = "the daemon ends";
constexpr const char* kGaveMemory = "gave its memory to requests; goes on when there is room";

using Wish = JobDesk::Wish;

}  // namespace

struct TuningWorker::Impl {
  explicit Impl(Parts given)
      : parts(std::move(given)),
        log(parts.store, parts.changed),
        desk(&log, parts.gate),
        memory({.hold = parts.hold,
                .wanted = [this] { desk.Wake(); },
                .activation_bytes = parts.activation_bytes,
                .run_batch_bytes = parts.run_batch_bytes,
                .runs = [this] { return parts.runs == nullptr ? 0 : parts.runs->held_bytes(); }}) {}

  void Run();
  bool AwaitJobs();
  void BeginJob(Job job);
  absl::Status GoOnWith(const RunningJob& job) const;
  void LetGo(RunningJob* job);
  void ComputeBatch();
  void TakeResult(RunningJob* job, const absl::StatusOr<std::optional<StepReport>>& report);
  void GrantWishes();
  absl::Status HoldMemory();
  void GiveMemoryBack();
  void EndJob(RunningJob* job, JobState state, std::string reason);
  void Fail(RunningJob* job, const absl::Status& status);
  void EndOrFail(RunningJob* job, const absl::Status& status, JobState state, std::string reason);
  bool Leave(RunningJob* job);
  void CountStep(const RunningJob& job, const StepReport& report);
  bool MustStop(const std::vector<RunningJob*>& members, bool others);
  void FailBatch(const std::vector<RunningJob*>& members, bool others, const absl::Status& status);

  const Parts parts;
  const JobLog log;
  JobDesk desk;

  TrainingPace pace{parts.gate, DeviceWait(parts.model)};  // any thread's

  // The worker thread's.
  std::vector<std::unique_ptr<RunningJob>> jobs;
  std::vector<std::unique_ptr<RunningJob>> unstored;  // ended, but the store could not take it yet
  BatchTurns turns;
  TrainingMemory memory;

  std::thread thread;
};

TuningWorker::TuningWorker(Parts parts) : impl_(std::make_unique<Impl>(std::move(parts))) {}
TuningWorker::~TuningWorker() { Stop(); }

std::string TuningWorker::JobFolder(const std::string& id) const {
  return absl::StrCat(impl_->parts.surroundings.jobs_dir, "/", id);
}

absl::Status TuningWorker::Start() {
  RETURN_IF_ERROR(RequeueInterrupted(impl_->log));
  const JobSurroundings& surroundings = impl_->parts.surroundings;
  ASSIGN_OR_RETURN(const std::vector<Revisions::Alias> aliases, surroundings.revisions->Aliases());
  for (const auto& [name, revision] : aliases) {
    // A folder that is gone is no reason not to start, and a name that a flag has taken stays the flag's.
    (void)surroundings.publish(name, surroundings.revisions->Folder(revision), /*replace=*/false);
  }
  impl_->thread = std::thread([this] { impl_->Run(); });
  return absl::OkStatus();
}

void TuningWorker::Stop() {
  impl_->desk.Stop();
  if (impl_->thread.joinable()) impl_->thread.join();
}

absl::Status TuningWorker::Accept(Job job, std::string message) {
  return impl_->desk.Accept(std::move(job), std::move(message));
}

void TuningWorker::Cancel(const std::string& id, Reply reply) { impl_->desk.Cancel(id, std::move(reply)); }
void TuningWorker::Pause(const std::string& id, Reply reply) { impl_->desk.Pause(id, std::move(reply)); }
void TuningWorker::Resume(const std::string& id, Reply reply) { impl_->desk.Resume(id, std::move(reply)); }
void TuningWorker::Wake() { impl_->desk.Wake(); }
void TuningWorker::InTurn(const std::function<void()>& slice) { impl_->pace.Run(slice); }
absl::Status TuningWorker::HoldForRuns() { return impl_->memory.Update(); }

absl::Status TuningWorker::Delete(const std::string& id) {
  RETURN_IF_ERROR(impl_->desk.Delete(id));
  return RemoveFolder(JobFolder(id));
}

void TuningWorker::Impl::Run() {
  while (AwaitJobs()) {
    ComputeBatch();
    GrantWishes();
    GiveMemoryBack();
  }
  GrantWishes();
  while (!jobs.empty()) EndOrFail(jobs.back().get(), jobs.back()->Save(), JobState::kQueued, kDaemonEnds);
}

// Begins queued jobs while there is room. False: the daemon ends.
bool TuningWorker::Impl::AwaitJobs() {
  while (!desk.stopping()) {
    (void)memory.Update();  // runs that were deleted; those of before a restart, as soon as there is room
    for (auto& job : std::exchange(unstored, {})) {
      if (!Leave(job.get())) unstored.push_back(std::move(job));
    }
    const bool waits = !memory.may_grow();
    absl::StatusOr<std::optional<Job>> queued;
    if (!waits) queued = desk.TakeQueued(parts.max_jobs);
    if (!waits && queued.ok() && queued->has_value()) {
      BeginJob(**std::move(queued));
      continue;
    }
    if (!jobs.empty() || (parts.runs != nullptr && parts.runs->has_work())) return true;
    const bool in_vain = waits || !queued.ok() || !unstored.empty();  // now, but perhaps not for long
    desk.Await(in_vain ? std::optional(kRetry) : std::nullopt);
  }
  return false;
}

void TuningWorker::Impl::BeginJob(Job job) {
  jobs.push_back(std::make_unique<RunningJob>(&parts.surroundings, &log, std::move(job)));
  RunningJob* const begun = jobs.back().get();
  absl::Status status = log.MoveTo(&begun->job(), JobState::kRunning, "");
  if (status.ok()) status = begun->CountMemory();
  if (status.ok()) {
    status = HoldMemory();  // before any of it is taken
    // Others may hold it now; the engine may end.
    if (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) {
      memory.WasShort();
      return EndJob(begun, JobState::kQueued, absl::StrCat("waits for memory: ", status.message()));
    }
  }
  if (status.ok()) {
    const DeviceTurns turns([this](const std::function<void()>& slice) { pace.Run(slice); });
    status = begun->Begin([&] { return GoOnWith(*begun); });
  }
  if (absl::IsCancelled(status)) return LetGo(begun);
  // Of another base, until that is served again; or what can be read later.
  if (absl::IsFailedPrecondition(status) || absl::IsUnavailable(status)) {
    return EndJob(begun, JobState::kPaused, std::string(status.message()));
  }
  if (!status.ok()) return Fail(begun, status);
  if (begun->trainer()->done()) TakeResult(begun, std::optional<StepReport>());
}

// Cancelled: somebody wants something else than that the job's beginning is made.
absl::Status TuningWorker::Impl::GoOnWith(const RunningJob& job) const {
  const bool ends = desk.stopping() || memory.wanted_back() || desk.WishOf(job.job().id) != Wish::kNone;
  return ends ? absl::CancelledError("not begun") : absl::OkStatus();
}

// A job that has not begun: what it is begun with another time is made anew.
void TuningWorker::Impl::LetGo(RunningJob* job) {
  const Wish wish = desk.WishOf(job->job().id);
  desk.CalmGate();
  if (wish == Wish::kCancel) return EndJob(job, JobState::kCancelled, "on request");
  if (wish == Wish::kPause) return EndJob(job, JobState::kPaused, "on request");
  EndJob(job, JobState::kQueued, desk.stopping() ? kDaemonEnds : kGaveMemory);
  GiveMemoryBack();
}

// The daemon ends, or the only job of the batch is to let go.
bool TuningWorker::Impl::MustStop(const std::vector<RunningJob*>& members, bool others) {
  return desk.stopping() || (memory.wanted_back() && !others) ||
         (members.size() == 1 && !others && desk.WishOf(members[0]->job().id) != Wish::kNone);
}

void TuningWorker::Impl::ComputeBatch() {
  const bool alone = turns.tries_alone();
  int64_t room_rows = parts.max_batch_rows;
  const BatchTurns::Round round = turns.Pick(jobs, &room_rows);
  for (const auto& [job, why] : round.unreadable) EndJob(job, JobState::kFailed, why.ToString());
  const std::vector<RunningJob*>& members = round.members;
  std::vector<Trainer*> trainers;
  for (const RunningJob* job : members) trainers.push_back(job->trainer());
  std::vector<BatchMember> parts_of_runs;
  if (parts.runs != nullptr && !alone) {
    parts_of_runs = parts.runs->TakeMembers(room_rows, [this](const std::function<void()>& slice) { pace.Run(slice); });
  }
  const bool others = !parts_of_runs.empty();
  if (members.empty() && !others) return;
  SharedBatch batch(parts.model, trainers, std::move(parts_of_runs), parts.kept_bytes);
  absl::StatusOr<bool> ended = false;
  while (ended.ok() && !*ended) {
    if (MustStop(members, others)) {
      for (Trainer* const trainer : trainers) trainer->DropStep();
      if (others) parts.runs->FailMembers(absl::UnavailableError("the daemon ends"));
      return;
    }
    pace.Run([&] { ended = batch.Advance(); });
  }
  if (!ended.ok()) return FailBatch(members, others, ended.status());
  for (size_t i = 0; i < members.size(); ++i) TakeResult(members[i], batch.results()[i].report);
}

void TuningWorker::Impl::FailBatch(const std::vector<RunningJob*>& members, bool others, const absl::Status& status) {
  EndIfDeviceIsLost(parts.model, status);
  if (others) parts.runs->FailMembers(status);
  if (members.size() == 1 && !others) return Fail(members[0], status);
  // One of them, or all together: each shows by itself.
  for (RunningJob* const job : members) {
    job->trainer()->DropStep();
    turns.TryAlone(job->job().id);
  }
}

void TuningWorker::Impl::TakeResult(RunningJob* job, const absl::StatusOr<std::optional<StepReport>>& report) {
  absl::Status status = report.status();
  if (status.ok() && report->has_value()) {
    status = job->Record(**report);
    if (!(*report)->eval_loss.has_value()) CountStep(*job, **report);
  }
  if (status.ok() && !job->trainer()->done()) return;
  std::string remark;
  if (status.ok()) status = job->Finish(&remark);
  EndOrFail(job, status, JobState::kSucceeded, std::move(remark));
}

void TuningWorker::Impl::CountStep(const RunningJob& job, const StepReport& report) {
  desk.CountStep({job.job().id, job.job().name, report.loss, report.grad_norm, report.learning_rate,
                  job.tokens_per_second(), report.router_loss},
                 report.tokens);
}

TuningStats TuningWorker::stats() const {
  TuningStats stats = impl_->desk.stats();
  const ComputeGate::Shares shares = impl_->parts.gate->shares();
  stats.serving_us = shares.serving_us;
  stats.training_us = shares.training_us;
  stats.yields = shares.yields;
  return stats;
}

void TuningWorker::Impl::GrantWishes() {
  desk.CalmGate();
  std::vector<RunningJob*> leaving;
  for (const auto& job : jobs) {
    if (desk.WishOf(job->job().id) != Wish::kNone) leaving.push_back(job.get());
  }
  for (RunningJob* const job : leaving) {
    if (desk.WishOf(job->job().id) == Wish::kCancel) {
      EndJob(job, JobState::kCancelled, "on request");
    } else {
      EndOrFail(job, job->Save(), JobState::kPaused, "on request");
    }
  }
}

// What the running jobs need, of the memory that serving uses too.
absl::Status TuningWorker::Impl::HoldMemory() {
  JobBytes all;  // of batches one at a time
  for (const auto& job : jobs) {
    all.state_bytes += job->bytes().state_bytes;
    all.batch_bytes = std::max(all.batch_bytes, job->bytes().batch_bytes);
  }
  return memory.Hold(all);
}

// Where serving asked for it, every job goes back into the queue, to go on from where it is when there is room again.
void TuningWorker::Impl::GiveMemoryBack() {
  if (!memory.TakeWantedBack()) return;
  while (!jobs.empty()) {
    RunningJob* const job = jobs.back().get();
    EndOrFail(job, job->Save(), JobState::kQueued, kGaveMemory);
  }
}

void TuningWorker::Impl::EndOrFail(RunningJob* job, const absl::Status& status, JobState state, std::string reason) {
  if (status.ok()) return EndJob(job, state, std::move(reason));
  Fail(job, status);
}

// But for an error that is the device's: the store has the job running still, and it goes on after the next start.
void TuningWorker::Impl::Fail(RunningJob* job, const absl::Status& status) {
  EndIfDeviceIsLost(parts.model, status);
  EndJob(job, JobState::kFailed, status.ToString());
}

void TuningWorker::Impl::EndJob(RunningJob* job, JobState state, std::string reason) {
  const auto place = std::find_if(jobs.begin(), jobs.end(), [&](const auto& owned) { return owned.get() == job; });
  std::unique_ptr<RunningJob> owned = std::move(*place);
  jobs.erase(place);
  turns.Restart();
  owned->LeaveAs(state, std::move(reason));
  (void)HoldMemory();  // less than before
  if (!Leave(owned.get())) unstored.push_back(std::move(owned));
}

// False: the store cannot take it now. The job stays running there, and goes on after the next start if that comes
// first.
bool TuningWorker::Impl::Leave(RunningJob* job) {
  if (!job->StoreLeaving().ok()) return false;
  desk.Leave(job->job());
  return true;
}

}  // namespace lorad
