#include "server/merge_reactor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/names.h"
#include "model/base/status_macros.h"
#include "scheduler/find_adapter.h"
#include "server/merger.h"
#include "server/to_proto.h"

namespace lorad {
namespace {

// What the name means to new requests, read at least once.
absl::StatusOr<AdapterInfo> FindServed(const EngineSnapshot& snapshot, const std::string& name) {
  const AdapterInfo* const live = FindLive(*snapshot.adapters, name);
  if (live != nullptr && !live->digest.empty()) return *live;
  return absl::NotFoundError(absl::StrCat("adapter: ", name, "; limit: a loaded one; load it first"));
}

}  // namespace

MergeReactor* MergeReactor::Start(const absl::StatusOr<const Backend*>& backend, const v1::MergeAdapterRequest& request,
                                  Log* log) {
  std::shared_ptr<MergeReactor> reactor(new MergeReactor(request.name().substr(0, kMaxAdapterNameBytes), log));
  reactor->self_ = reactor;
  const absl::Status status = backend.ok() ? reactor->Begin(**backend, request) : backend.status();
  if (!status.ok()) reactor->End(status);
  return reactor.get();
}

absl::Status MergeReactor::Begin(const Backend& backend, const v1::MergeAdapterRequest& request) {
  RETURN_IF_ERROR(CheckAdapterName(request.name()));
  MergeJob job;
  job.output_path = request.output_path();
  ASSIGN_OR_RETURN(const AdapterInfo adapter, FindServed(*backend.engine->snapshot(), request.name()));
  job.adapter_path = adapter.path;
  job.digest = adapter.digest;
  job.progress = [self = shared_from_this()](int64_t done, int64_t total) { return self->Tell(done, total); };
  job.done = [self = shared_from_this()](absl::Status status) { self->End(std::move(status)); };
  return backend.merger->Start(std::move(job));
}

bool MergeReactor::Tell(int64_t done, int64_t total) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cancelled_) return false;
  next_.emplace();
  next_->set_tensors_done(static_cast<uint32_t>(done));
  next_->set_tensors_total(static_cast<uint32_t>(total));
  SendNext();
  return true;
}

void MergeReactor::End(absl::Status status) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (status.ok()) {
    log_->Info("adapter_merged", {{"adapter", adapter_}});
  } else {
    log_->Warning("adapter_merge_failed", {{"adapter", adapter_}, {"status", status.ToString()}});
  }
  status_ = std::move(status);
  SendNext();
}

void MergeReactor::SendNext() {
  if (writing_ || finished_) return;
  if (next_.has_value() && !cancelled_) {
    writing_ = true;
    message_ = *std::exchange(next_, std::nullopt);
    StartWrite(&message_);
  } else if (status_.has_value()) {
    finished_ = true;
    Finish(ToGrpc(*status_));
  }
}

void MergeReactor::OnWriteDone(bool ok) {
  const std::lock_guard<std::mutex> lock(mutex_);
  writing_ = false;
  cancelled_ |= !ok;
  SendNext();
}

void MergeReactor::OnCancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
}

void MergeReactor::OnDone() {
  std::shared_ptr<MergeReactor> self;  // goes last, after the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  self = std::move(self_);
}

}  // namespace lorad
