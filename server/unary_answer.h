#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "server/backend.h"

namespace lorad {

// Ends a unary call whose answer, if any, is small and complete.
grpc::ServerUnaryReactor* FinishWith(grpc::CallbackServerContext* context, const absl::Status& status);

// A unary call with an answer that may be large: until its caller has taken it, it counts among the answers that nobody
// reads, and the longest idle of those are given up when they are too much together.
//
// Threads  End from any, once; the rest on gRPC's and the pump's.
// Lives    until gRPC says OnDone.
class UnaryAnswer final : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<UnaryAnswer> {
 public:
  static UnaryAnswer* Start(grpc::CallbackServerContext* context, const Backend* backend);

  // `bytes` of the response, which is complete.
  void End(const absl::Status& status, size_t bytes);

  void OnDone() override;

 private:
  static constexpr size_t kSmallBytes = size_t{16} << 10;  // as much as a call costs anyway

  UnaryAnswer(grpc::CallbackServerContext* context, const Backend* backend) : backend_(backend), context_(context) {}

  std::optional<UnreadAnswer> Unread();
  void GiveUp();

  const Backend* const backend_;
  std::shared_ptr<UnaryAnswer> self_;  // until OnDone

  std::mutex mutex_;
  grpc::CallbackServerContext* context_;  // until OnDone
  size_t bytes_ = 0;
  int64_t ended_us_ = 0;
};

}  // namespace lorad
