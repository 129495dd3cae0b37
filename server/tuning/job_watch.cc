#include "server/tuning/job_watch.h"

#include <deque>
#include <mutex>
#include <string>
#include <utility>

#include "server/to_proto.h"
#include "server/tuning/job_proto.h"

namespace lorad {
namespace {

constexpr int64_t kReadAhead = 64;  // events

class JobWatch final : public grpc::ServerWriteReactor<v1::JobEvent> {
 public:
  JobWatch(Tuning* tuning, const v1::WatchJobRequest& request)
      : tuning_(tuning), job_id_(request.id()), sequence_(static_cast<int64_t>(request.after_sequence())) {}

  void Start() {
    const std::lock_guard<std::mutex> lock(mutex_);  // A change meanwhile waits.
    watch_ = tuning_->Watch(job_id_, [this] { Advance(); });
    AdvanceLocked();
  }

  void OnWriteDone(bool ok) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      writing_ = false;
    }
    if (ok) {
      Advance();
    } else {
      End(grpc::Status(grpc::StatusCode::CANCELLED, "the caller is gone"));
    }
  }
  void OnCancel() override { End(grpc::Status(grpc::StatusCode::CANCELLED, "the caller is gone")); }
  void OnDone() override {
    tuning_->Unwatch(watch_);
    delete this;
  }

 private:
  void Advance() {
    const std::lock_guard<std::mutex> lock(mutex_);
    AdvanceLocked();
  }
  // Writes the next event if there is one and none is being written, or ends.
  void AdvanceLocked() {
    if (writing_ || ended_) return;
    if (finished_) return EndLocked(grpc::Status::OK);
    if (ahead_.empty() && !ReadAhead()) return;
    message_ = ToProto(ahead_.front());
    finished_ = IsFinished(ahead_.front().state);
    sequence_ = ahead_.front().sequence;
    ahead_.pop_front();
    writing_ = true;
    StartWrite(&message_);
  }

  // False: nothing to write now, or the call was ended.
  bool ReadAhead() {
    const absl::StatusOr<Job> job = tuning_->store().Get(job_id_);
    absl::StatusOr<std::vector<JobEvent>> events =
        job.ok() ? tuning_->store().Events(job_id_, sequence_, kReadAhead) : job.status();
    if (!events.ok()) {
      EndLocked(ToGrpc(events.status()));
      return false;
    }
    ahead_.insert(ahead_.end(), events->begin(), events->end());
    if (!ahead_.empty()) return true;
    if (IsFinished(job->state)) EndLocked(grpc::Status::OK);
    if (tuning_->stopping())
      EndLocked(ToGrpc(absl::UnavailableError("the daemon ends; the job goes on with it later")));
    return false;
  }

  void End(const grpc::Status& status) {
    const std::lock_guard<std::mutex> lock(mutex_);
    EndLocked(status);
  }
  void EndLocked(const grpc::Status& status) {
    if (std::exchange(ended_, true)) return;
    Finish(status);
  }

  Tuning* const tuning_;
  const std::string job_id_;
  int64_t watch_ = 0;
  std::mutex mutex_;
  int64_t sequence_;  // of the last event that was written
  std::deque<JobEvent> ahead_;
  v1::JobEvent message_;
  bool writing_ = false;
  bool finished_ = false;  // the event that is being written is the job's last
  bool ended_ = false;
};

class Refusal final : public grpc::ServerWriteReactor<v1::JobEvent> {
 public:
  explicit Refusal(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerWriteReactor<v1::JobEvent>* StartWatch(Tuning* tuning, const absl::Status& refusal,
                                                   const v1::WatchJobRequest& request) {
  if (tuning == nullptr) return new Refusal(refusal);
  auto* watch = new JobWatch(tuning, request);
  watch->Start();
  return watch;
}

}  // namespace lorad
