#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "lorad/v1/adapters.pb.h"
#include "server/backend.h"
#include "server/log.h"

namespace lorad {

// One MergeAdapter call: starts the work and tells how far it is; of messages that a slow client does not take, the
// last one counts. Lives until gRPC and the merger have let go of it.
class MergeReactor final : public grpc::ServerWriteReactor<v1::MergeProgress>,
                           public std::enable_shared_from_this<MergeReactor> {
 public:
  static MergeReactor* Start(const absl::StatusOr<const Backend*>& backend, const v1::MergeAdapterRequest& request,
                             Log* log);

 private:
  MergeReactor(std::string adapter, Log* log) : adapter_(std::move(adapter)), log_(log) {}
  absl::Status Begin(const Backend& backend, const v1::MergeAdapterRequest& request);
  bool Tell(int64_t done, int64_t total);  // false: nobody listens any more
  void End(absl::Status status);
  void SendNext();  // with the lock

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  const std::string adapter_;
  Log* const log_;
  std::shared_ptr<MergeReactor> self_;
  std::mutex mutex_;
  v1::MergeProgress message_;  // being written
  std::optional<v1::MergeProgress> next_;
  std::optional<absl::Status> status_;  // the work's end
  bool writing_ = false;
  bool cancelled_ = false;
  bool finished_ = false;
};

}  // namespace lorad
