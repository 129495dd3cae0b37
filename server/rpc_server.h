#pragma once

#include <grpcpp/server.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/adapter_service.h"
#include "server/backend.h"
#include "server/inference_service.h"
#include "server/tuning/training_service.h"
#include "server/tuning/tuning_service.h"

namespace lorad {

// The gRPC port: our services, grpc.health.v1.Health and reflection.
class RpcServer final {
 public:
  struct Options {
    std::string address;                     // HOST:PORT; port 0 takes a free one
    int64_t max_concurrent_streams = 1024;   // of one connection; more wait in the client
    int64_t max_connection_age_seconds = 0;  // then it ends, behind its calls; 0: never
  };
  // Not yet serving, says its health check. Errors: Unavailable when the address cannot be taken.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const Options& options, const Readiness* readiness,
                                                          Metrics* metrics, Log* log);

  void SetServing(bool serving);
  // Waits until every call has ended, cancelling them at the deadline.
  void Shutdown(std::chrono::milliseconds patience);

  const std::string& address() const { return address_; }  // with the port that was taken

 private:
  RpcServer(const Readiness* readiness, Metrics* metrics, Log* log)
      : inference_(readiness, metrics, log), adapters_(readiness, log), fine_tuning_(readiness), training_(readiness) {}

  InferenceService inference_;
  AdapterService adapters_;
  FineTuningService fine_tuning_;
  TrainingService training_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace lorad
