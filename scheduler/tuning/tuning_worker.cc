#include "scheduler/tuning/tuning_worker.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/train/shared_batch.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/checkpoints.h"
#include "scheduler/tuning/job_log.h"
#include "scheduler/tuning/training_pace.h"

namespace lorad {
namespace {

constexpr std::chrono::seconds kRetry(1);  // a disk or a memory that is full now may not be later
constexpr std::chrono::seconds kMaxMemoryRetry(30);

constexpr const char* kStartedAgain = "the daemon was started again";
constexpr int64_t kMaxRestarts = 10;  // without a new step: the job is what kills the daemon

absl::Status StateForbids(const Job& job, const char* allowed) {
  return absl::FailedPreconditionError(
      absl::StrCat("job ", job.id, ": state: ", NameOf(job.state), "; limit: ", allowed));
}

// What others want of a job that runs, and who waits for it.
enum class Wish : uint8_t { kNone, kPause, kCancel };
struct Wanted {
  Wish wish = Wish::kNone;
  std::vector<TuningWorker::Reply> replies;
  std::optional<TuningStats::RunningJob> last_step;
};

}  // namespace

struct TuningWorker::Impl {
  explicit Impl(Parts given) : parts(std::move(given)), log(parts.store, parts.changed) {}

  void Run();
  bool AwaitJobs();
  void BeginJob(Job job);
  std::vector<RunningJob*> PickMembers(int64_t* room_rows);
  void ComputeBatch();
  void TakeResult(RunningJob* job, const absl::StatusOr<std::optional<StepReport>>& report);
  void GrantWishes();
  absl::Status HoldMemory();
  void GiveMemoryBack();
  void EndJob(RunningJob* job, JobState state, std::string reason);
  void EndOrFail(RunningJob* job, const absl::Status& status, JobState state, std::string reason);
  bool Leave(RunningJob* job);
  void Change(const std::string& id, JobState to, const char* allowed, bool (*may)(JobState state), Wish if_running,
              Reply reply);
  Wish WishOf(const std::string& id);
  void CountStep(const RunningJob& job, const StepReport& report);
  bool MustStop(const std::vector<RunningJob*>& members, bool others);
  void FailBatch(const std::vector<RunningJob*>& members, bool others, const absl::Status& status);

  const Parts parts;
  const JobLog log;

  // The worker thread's.
  TrainingPace pace{parts.gate};
  std::vector<std::unique_ptr<RunningJob>> jobs;
  std::vector<std::unique_ptr<RunningJob>> unstored;  // ended, but the store could not take it yet
  std::deque<std::string> to_try_alone;               // after a batch of several that failed
  size_t next_member = 0;
  int64_t held_bytes = 0;
  std::chrono::steady_clock::time_point no_begin_before;  // memory was short
  std::chrono::seconds memory_retry = kRetry;

  std::mutex mutex;  // of what follows, and of every change of a job that does not run
  std::condition_variable wake;
  std::map<std::string, Wanted> running;  // by id
  TuningStats totals;                     // what counts from the start
  bool stopping = false;
  bool give_back = false;  // serving cannot do without the memory that training holds
  std::thread thread;
};

TuningWorker::TuningWorker(Parts parts) : impl_(std::make_unique<Impl>(std::move(parts))) {}
TuningWorker::~TuningWorker() { Stop(); }

std::string TuningWorker::JobFolder(const std::string& id) const {
  return absl::StrCat(impl_->parts.surroundings.jobs_dir, "/", id);
}

absl::Status TuningWorker::Start() {
  ASSIGN_OR_RETURN(std::vector<Job> interrupted, impl_->parts.store->InState(JobState::kRunning));
  for (Job& job : interrupted) {
    RETURN_IF_ERROR(impl_->log.MoveTo(&job, JobState::kQueued, kStartedAgain));
    ASSIGN_OR_RETURN(const int64_t restarts, impl_->parts.store->CountSinceProgress(job.id, kStartedAgain));
    if (restarts < kMaxRestarts) continue;
    RETURN_IF_ERROR(impl_->log.MoveTo(
        &job, JobState::kFailed,
        absl::StrCat("the daemon died ", restarts, " times while it ran, at step ", job.step, "; limit: ", kMaxRestarts,
                     "; it may need more memory than there is: a smaller micro_batch_size or max_length takes less")));
  }
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
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->parts.gate->Hurry(true);
  impl_->wake.notify_all();
  if (impl_->thread.joinable()) impl_->thread.join();
}

void TuningWorker::Wake() {
  { const std::lock_guard<std::mutex> lock(impl_->mutex); }  // else the thread may look before and sleep after
  impl_->wake.notify_all();
}

absl::Status TuningWorker::Accept(Job job, std::string message) {
  job.state = JobState::kQueued;
  job.created_us = UnixUs();
  JobEvent event = EventOf(job, std::move(message));
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);  // else the thread may look before and sleep after
    RETURN_IF_ERROR(impl_->parts.store->Insert(job, &event));
  }
  impl_->log.Tell(job.id);
  impl_->wake.notify_all();
  return absl::OkStatus();
}

void TuningWorker::Impl::Change(const std::string& id, JobState to, const char* allowed, bool (*may)(JobState state),
                                Wish if_running, Reply reply) {
  const auto change = [&]() -> absl::StatusOr<Job> {
    ASSIGN_OR_RETURN(Job job, parts.store->Get(id));
    if (job.state == to) return job;
    if (!may(job.state)) return StateForbids(job, allowed);
    RETURN_IF_ERROR(log.MoveTo(&job, to, "on request"));
    return job;
  };
  std::unique_lock<std::mutex> lock(mutex);
  if (const auto runs = running.find(id); runs != running.end() && if_running != Wish::kNone) {
    runs->second.wish = std::max(runs->second.wish, if_running);
    runs->second.replies.push_back(std::move(reply));
    parts.gate->Hurry(true);
    return;
  }
  absl::StatusOr<Job> changed = change();
  lock.unlock();
  wake.notify_all();
  reply(std::move(changed));
}

void TuningWorker::Cancel(const std::string& id, Reply reply) {
  const auto may = [](JobState state) { return !IsFinished(state); };
  impl_->Change(id, JobState::kCancelled, "not finished", may, Wish::kCancel, std::move(reply));
}

void TuningWorker::Pause(const std::string& id, Reply reply) {
  const auto may = [](JobState state) { return state == JobState::kQueued; };
  impl_->Change(id, JobState::kPaused, "queued or running", may, Wish::kPause, std::move(reply));
}

void TuningWorker::Resume(const std::string& id, Reply reply) {
  const auto may = [](JobState state) { return state == JobState::kPaused; };
  impl_->Change(id, JobState::kQueued, "paused", may, Wish::kNone, std::move(reply));
}

absl::Status TuningWorker::Delete(const std::string& id) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  ASSIGN_OR_RETURN(const Job job, impl_->parts.store->Get(id));
  if (!IsFinished(job.state)) return StateForbids(job, "succeeded, failed or cancelled; cancel it first");
  RETURN_IF_ERROR(impl_->parts.store->Delete(id));
  impl_->log.Tell(id);
  return RemoveFolder(JobFolder(id));
}

void TuningWorker::Impl::Run() {
  while (AwaitJobs()) {
    ComputeBatch();
    GrantWishes();
    GiveMemoryBack();
  }
  GrantWishes();
  while (!jobs.empty()) EndOrFail(jobs.back().get(), jobs.back()->Save(), JobState::kQueued, "the daemon ends");
}

// Begins queued jobs while there is room. False: the daemon ends.
bool TuningWorker::Impl::AwaitJobs() {
  std::unique_lock<std::mutex> lock(mutex);
  while (!stopping) {
    lock.unlock();
    for (auto& job : std::exchange(unstored, {})) {
      if (!Leave(job.get())) unstored.push_back(std::move(job));
    }
    lock.lock();
    const bool waits = std::chrono::steady_clock::now() < no_begin_before;
    const bool room = static_cast<int64_t>(running.size()) < parts.max_jobs && !waits;
    absl::StatusOr<std::optional<Job>> queued;
    if (room) queued = parts.store->NextQueued();
    const bool found = room && queued.ok() && queued->has_value();
    if (found && running.count((*queued)->id) == 0) {  // else one of the unstored
      running[(*queued)->id];
      lock.unlock();
      BeginJob(**std::move(queued));
      lock.lock();
      continue;
    }
    if (!jobs.empty() || (parts.runs != nullptr && parts.runs->has_work())) return true;
    if (queued.ok() && unstored.empty() && !waits) {
      wake.wait(lock);
    } else {
      wake.wait_for(lock, kRetry);
    }
  }
  return false;
}

void TuningWorker::Impl::BeginJob(Job job) {
  jobs.push_back(std::make_unique<RunningJob>(&parts.surroundings, &log, std::move(job)));
  RunningJob* const begun = jobs.back().get();
  absl::Status status = log.MoveTo(&begun->job(), JobState::kRunning, "");
  if (status.ok()) status = begun->Begin();
  if (status.ok()) {
    status = HoldMemory();
    if (absl::IsResourceExhausted(status)) {
      no_begin_before = std::chrono::steady_clock::now() + memory_retry;
      memory_retry = std::min(2 * memory_retry, kMaxMemoryRetry);  // each try is an event
      return EndJob(begun, JobState::kQueued, absl::StrCat("waits for memory: ", status.message()));
    }
  }
  if (!status.ok()) return EndJob(begun, JobState::kFailed, status.ToString());
  if (begun->trainer()->done()) TakeResult(begun, std::optional<StepReport>());
}

// The jobs whose next micro-batches fit one batch, in turn; always one at least. Takes their rows off `room_rows`.
std::vector<RunningJob*> TuningWorker::Impl::PickMembers(int64_t* room_rows) {
  while (!to_try_alone.empty()) {
    const std::string id = std::move(to_try_alone.front());
    to_try_alone.pop_front();
    for (const auto& job : jobs) {
      if (job->job().id == id) return {job.get()};
    }
  }
  std::vector<RunningJob*> members;
  const size_t first = next_member, count = jobs.size();
  for (size_t i = 0; i < count; ++i) {
    RunningJob* const job = jobs[(first + i) % count].get();
    const absl::StatusOr<int64_t> more = job->trainer()->NextRows();
    // Examples that cannot be read fail their job when it is alone.
    if (!more.ok() || (!members.empty() && *more > *room_rows)) {
      if (members.empty()) return {job};
      next_member = (first + i) % count;
      break;
    }
    members.push_back(job);
    *room_rows -= *more;
  }
  return members;
}

// The daemon ends, or the only job of the batch is to let go.
bool TuningWorker::Impl::MustStop(const std::vector<RunningJob*>& members, bool others) {
  const std::lock_guard<std::mutex> lock(mutex);
  return stopping || (give_back && !others) ||
         (members.size() == 1 && !others && running[members[0]->job().id].wish != Wish::kNone);
}

void TuningWorker::Impl::ComputeBatch() {
  const bool alone = !to_try_alone.empty();
  int64_t room_rows = parts.max_batch_rows;
  const std::vector<RunningJob*> members = PickMembers(&room_rows);
  std::vector<Trainer*> trainers;
  for (const RunningJob* job : members) trainers.push_back(job->trainer());
  std::vector<BatchMember> parts_of_runs;
  if (parts.runs != nullptr && !alone) parts_of_runs = parts.runs->TakeMembers(room_rows);
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
  if (others) parts.runs->FailMembers(status);
  if (members.size() == 1 && !others) return EndJob(members[0], JobState::kFailed, status.ToString());
  // One of them, or all together: each shows by itself.
  for (RunningJob* const job : members) {
    job->trainer()->DropStep();
    to_try_alone.push_back(job->job().id);
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
  const std::lock_guard<std::mutex> lock(mutex);
  ++totals.steps;
  totals.tokens += report.tokens;
  running[job.job().id].last_step = {job.job().id,         job.job().name,          report.loss,       report.grad_norm,
                                     report.learning_rate, job.tokens_per_second(), report.router_loss};
}

TuningStats TuningWorker::stats() const {
  TuningStats stats;
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    stats = impl_->totals;
    stats.running = static_cast<int64_t>(impl_->running.size());
    for (const auto& [id, wanted] : impl_->running) {
      if (wanted.last_step.has_value()) stats.jobs.push_back(*wanted.last_step);
    }
  }
  const absl::StatusOr<std::vector<Job>> queued = impl_->parts.store->InState(JobState::kQueued);
  const absl::StatusOr<std::vector<Job>> paused = impl_->parts.store->InState(JobState::kPaused);
  stats.queued = queued.ok() ? static_cast<int64_t>(queued->size()) : 0;
  stats.paused = paused.ok() ? static_cast<int64_t>(paused->size()) : 0;
  const ComputeGate::Shares shares = impl_->parts.gate->shares();
  stats.serving_us = shares.serving_us;
  stats.training_us = shares.training_us;
  stats.yields = shares.yields;
  return stats;
}

void TuningWorker::Impl::GrantWishes() {
  {
    const std::lock_guard<std::mutex> lock(mutex);  // a wish that comes later hurries anew
    parts.gate->Hurry(stopping);
  }
  std::vector<RunningJob*> leaving;
  for (const auto& job : jobs) {
    if (WishOf(job->job().id) != Wish::kNone) leaving.push_back(job.get());
  }
  for (RunningJob* const job : leaving) {
    if (WishOf(job->job().id) == Wish::kCancel) {
      EndJob(job, JobState::kCancelled, "on request");
    } else {
      EndOrFail(job, job->Save(), JobState::kPaused, "on request");
    }
  }
}

// What the running jobs need, of the memory that serving uses too.
absl::Status TuningWorker::Impl::HoldMemory() {
  int64_t bytes = jobs.empty() ? 0 : parts.activation_bytes;
  for (const auto& job : jobs) bytes += job->trainer() == nullptr ? 0 : job->trainer()->state_bytes();
  if (!parts.hold || bytes == held_bytes) return absl::OkStatus();
  RETURN_IF_ERROR(parts.hold(bytes, [this] {
    const std::lock_guard<std::mutex> lock(mutex);
    give_back = true;
    wake.notify_all();
  }));
  if (bytes > held_bytes) memory_retry = kRetry;
  held_bytes = bytes;
  return absl::OkStatus();
}

// Where serving asked for it, every job goes back into the queue, to go on from where it is when there is room again.
void TuningWorker::Impl::GiveMemoryBack() {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!std::exchange(give_back, false)) return;
  }
  no_begin_before = std::chrono::steady_clock::now() + kRetry;
  while (!jobs.empty()) {
    RunningJob* const job = jobs.back().get();
    EndOrFail(job, job->Save(), JobState::kQueued, "gave its memory to requests; goes on when there is room");
  }
}

Wish TuningWorker::Impl::WishOf(const std::string& id) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto runs = running.find(id);
  return runs == running.end() ? Wish::kNone : runs->second.wish;
}

void TuningWorker::Impl::EndOrFail(RunningJob* job, const absl::Status& status, JobState state, std::string reason) {
  if (status.ok()) return EndJob(job, state, std::move(reason));
  EndJob(job, JobState::kFailed, status.ToString());
}

void TuningWorker::Impl::EndJob(RunningJob* job, JobState state, std::string reason) {
  const auto place = std::find_if(jobs.begin(), jobs.end(), [&](const auto& owned) { return owned.get() == job; });
  std::unique_ptr<RunningJob> owned = std::move(*place);
  jobs.erase(place);
  next_member = 0;
  owned->LeaveAs(state, std::move(reason));
  (void)HoldMemory();  // less than before
  if (!Leave(owned.get())) unstored.push_back(std::move(owned));
}

// False: the store cannot take it now. The job stays running there, and goes on after the next start if that comes
// first.
bool TuningWorker::Impl::Leave(RunningJob* job) {
  if (!job->StoreLeaving().ok()) return false;
  Wanted wanted;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    wanted = std::move(running[job->job().id]);
    running.erase(job->job().id);
  }
  for (const Reply& reply : wanted.replies) reply(job->job());
  return true;
}

}  // namespace lorad
