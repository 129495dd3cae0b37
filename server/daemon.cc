#include "server/daemon.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "server/http/http_server.h"
#include "server/metrics/metrics.h"
#include "server/metrics/tuning_metrics.h"
#include "server/rpc_server.h"
#include "server/serving.h"
#include "server/tuning/tuning.h"
#include "server/version.h"

namespace lorad {
namespace {

constexpr std::chrono::seconds kFlushPatience{3};  // For answers that are made and not yet read.
constexpr int64_t kLongestStepUs = 60'000'000;     // on a device, where steps are made to take some milliseconds

double UnixSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

HttpResponse AnswerHttp(const std::string& target, const Readiness& readiness, Metrics* metrics) {
  const absl::StatusOr<const Backend*> serving = readiness.Get();
  if (target == "/metrics") {
    const absl::StatusOr<const Backend*> backend = readiness.GetToRead();
    const std::shared_ptr<const EngineSnapshot> snapshot = backend.ok() ? (*backend)->engine->snapshot() : nullptr;
    std::string text = metrics->Text(snapshot.get(), UnixSeconds());
    if (backend.ok() && (*backend)->tuning != nullptr) {
      text += TuningMetricsText((*backend)->tuning->stats(), (*backend)->model.name);
    }
    return {200, "text/plain; version=0.0.4; charset=utf-8", std::move(text)};
  }
  if (target == "/health") {
    if (serving.ok() && (*serving)->step_waits_us() > kLongestStepUs) {
      return {503, "text/plain; charset=utf-8", "a step on the device: over 60 s; limit: 60 s; start lorad again\n"};
    }
    if (serving.ok()) return {200, "text/plain; charset=utf-8", "ok\n"};
    return {503, "text/plain; charset=utf-8", absl::StrCat(serving.status().message(), "\n")};
  }
  if (target == "/")
    return {200, "text/plain; charset=utf-8", "lorad\n/metrics  Prometheus text\n/health   200 when serving\n"};
  return {404, "text/plain; charset=utf-8", "path: not known; limit: /metrics, /health\n"};
}

// Says on stdout where the daemon listens, whatever the log level: scripts wait for this line.
void SayReady(const RpcServer& rpc, const HttpServer* http, const ModelFacts& model) {
  std::printf("ready listen=%s metrics=%s model=%s\n", rpc.address().c_str(), http ? http->address().c_str() : "none",
              model.name.c_str());
  std::fflush(stdout);
}

absl::Status Run(const ServerConfig& config, Signals* signals, Log* log) {
  ASSIGN_OR_RETURN(const ServingDevice device, ChooseDevice(config, log));  // before LibTorch is called
  Metrics metrics;
  Readiness readiness;
  RpcServer::Options options;
  options.address = config.listen;
  // Above what the queue takes, so that one request too many is refused by us and does not wait in its client.
  options.max_concurrent_streams = config.queue_limit + config.max_sequences + 1024;
  options.max_connection_age_seconds = config.max_connection_age_seconds;
  std::unique_ptr<Serving> serving;  // Outlives the port: calls use it.
  ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> rpc, RpcServer::Start(options, &readiness, &metrics, log));
  std::unique_ptr<HttpServer> http;
  if (!config.metrics.empty()) {
    ASSIGN_OR_RETURN(http, HttpServer::Start(config.metrics, [&](const std::string& target) {
                       return AnswerHttp(target, readiness, &metrics);
                     }));
  }

  ASSIGN_OR_RETURN(serving, Serving::Start(config, device, &metrics, log));
  signals->StartDrainingOnSignal();
  readiness.Publish(serving->backend());
  rpc->SetServing(true);
  SayReady(*rpc, http.get(), serving->backend()->model);

  signals->Wait();
  log->Info("draining", {{"patience_s", config.drain_seconds}});
  readiness.StartDraining();
  rpc->SetServing(false);
  serving->Drain(std::chrono::microseconds(std::chrono::seconds(config.drain_seconds)).count());
  rpc->Shutdown(kFlushPatience);
  log->Info("ended");
  return absl::OkStatus();
}

}  // namespace

int RunDaemon(const ServerConfig& config, Signals* signals, Log* log) {
  // gRPC's and protobuf's own messages go to stderr in a form of their own, one for each malformed call if a caller
  // likes; what matters in them reaches us as a status.
  if (config.log_level != LogLevel::kDebug) {
    gpr_set_log_verbosity(static_cast<gpr_log_severity>(GPR_LOG_SEVERITY_ERROR + 1));
    google::protobuf::SetLogHandler(nullptr);
  }
  log->Info("starting", {{"version", kVersion}, {"model", config.model_dir}, {"threads", config.threads}});
  const absl::Status status = Run(config, signals, log);
  if (status.ok()) return 0;
  log->Error("failed", {{"status", status.ToString()}});
  return 1;
}

}  // namespace lorad
