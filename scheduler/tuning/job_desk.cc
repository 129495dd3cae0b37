#include "scheduler/tuning/job_desk.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/job_store.h"

namespace lorad {
namespace {

absl::Status StateForbids(const Job& job, const char* allowed) {
  return absl::FailedPreconditionError(
      absl::StrCat("job ", job.id, ": state: ", NameOf(job.state), "; limit: ", allowed));
}

}  // namespace

absl::Status JobDesk::Accept(Job job, std::string message) {
  job.state = JobState::kQueued;
  job.created_us = UnixUs();
  JobEvent event = EventOf(job, std::move(message));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    RETURN_IF_ERROR(log_.store().Insert(job, &event));
  }
  log_.Tell(job.id);
  Wake();
  return absl::OkStatus();
}

void JobDesk::Change(const std::string& id, JobState to, const char* allowed, bool (*may)(JobState state),
                     Wish if_running, Reply reply) {
  const auto change = [&]() -> absl::StatusOr<Job> {
    ASSIGN_OR_RETURN(Job job, log_.store().Get(id));
    if (job.state == to) return job;
    if (!may(job.state)) return StateForbids(job, allowed);
    RETURN_IF_ERROR(log_.MoveTo(&job, to, "on request"));
    return job;
  };
  std::unique_lock<std::mutex> lock(mutex_);
  if (const auto running = running_.find(id); running != running_.end() && if_running != Wish::kNone) {
    running->second.wish = std::max(running->second.wish, if_running);
    running->second.replies.push_back(std::move(reply));
    gate_.Hurry(true);
    return;
  }
  absl::StatusOr<Job> changed = change();
  lock.unlock();
  Wake();
  reply(std::move(changed));
}

void JobDesk::Cancel(const std::string& id, Reply reply) {
  const auto may = [](JobState state) { return !IsFinished(state); };
  Change(id, JobState::kCancelled, "not finished", may, Wish::kCancel, std::move(reply));
}

void JobDesk::Pause(const std::string& id, Reply reply) {
  const auto may = [](JobState state) { return state == JobState::kQueued; };
  Change(id, JobState::kPaused, "queued or running", may, Wish::kPause, std::move(reply));
}

void JobDesk::Resume(const std::string& id, Reply reply) {
  const auto may = [](JobState state) { return state == JobState::kPaused; };
  Change(id, JobState::kQueued, "paused", may, Wish::kNone, std::move(reply));
}

absl::Status JobDesk::Delete(const std::string& id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ASSIGN_OR_RETURN(const Job job, log_.store().Get(id));
  if (!IsFinished(job.state)) return StateForbids(job, "succeeded, failed or cancelled; cancel it first");
  RETURN_IF_ERROR(log_.store().Delete(id));
  log_.Tell(id);
  return absl::OkStatus();
}

void JobDesk::Wake() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    changed_ = true;
  }
  wake_.notify_all();
}

void JobDesk::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  gate_.Hurry(true);
  wake_.notify_all();
}

bool JobDesk::stopping() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stopping_;
}

TuningStats JobDesk::stats() const {
  TuningStats stats;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats.steps = steps_;
    stats.tokens = tokens_;
    stats.running = static_cast<int64_t>(running_.size());
    for (const auto& [id, running] : running_) {
      if (running.last_step.has_value()) stats.jobs.push_back(*running.last_step);
    }
  }
  const absl::StatusOr<std::vector<Job>> queued = log_.store().InState(JobState::kQueued);
  const absl::StatusOr<std::vector<Job>> paused = log_.store().InState(JobState::kPaused);
  stats.queued = queued.ok() ? static_cast<int64_t>(queued->size()) : 0;
  stats.paused = paused.ok() ? static_cast<int64_t>(paused->size()) : 0;
  return stats;
}

absl::StatusOr<std::optional<Job>> JobDesk::TakeQueued(int64_t most) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (static_cast<int64_t>(running_.size()) >= most) return std::optional<Job>();
  ASSIGN_OR_RETURN(std::optional<Job> job, log_.store().NextQueued());
  // One that has left and is not stored as it left is still queued there.
  if (!job.has_value() || !running_.try_emplace(job->id).second) return std::optional<Job>();
  return job;
}

void JobDesk::Await(std::optional<std::chrono::seconds> at_most) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto is_new = [this] { return changed_ || stopping_; };
  if (at_most.has_value()) {
    wake_.wait_for(lock, *at_most, is_new);
  } else {
    wake_.wait(lock, is_new);
  }
  changed_ = false;
}

JobDesk::Wish JobDesk::WishOf(const std::string& id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto running = running_.find(id);
  return running == running_.end() ? Wish::kNone : running->second.wish;
}

void JobDesk::CalmGate() {
  const std::lock_guard<std::mutex> lock(mutex_);
  gate_.Hurry(stopping_);
}

void JobDesk::CountStep(const TuningStats::RunningJob& step, int64_t tokens) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++steps_;
  tokens_ += tokens;
  running_[step.id].last_step = step;
}

void JobDesk::Leave(const Job& job) {
  std::vector<Reply> replies;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto running = running_.find(job.id);
    if (running == running_.end()) return;
    replies = std::move(running->second.replies);
    running_.erase(running);
  }
  for (const Reply& reply : replies) reply(job);
}

}  // namespace lorad
