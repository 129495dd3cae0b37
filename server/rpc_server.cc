#include "server/rpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

constexpr int kMaxRequestBytes = 16 << 20;
constexpr size_t kMaxCallBytes = size_t{1} << 30;  // of all calls' buffers together; beyond it reads wait
constexpr int kKeepaliveMs = 60'000;               // A client that vanished is noticed within this and the timeout.
constexpr int kKeepaliveTimeoutMs = 20'000;
constexpr int kMinClientPingMs = 10'000;
constexpr const char* kHealthNames[] = {"lorad.v1.Inference", "lorad.v1.Adapters", "lorad.v1.FineTuning",
                                        "lorad.v1.Training"};

void SetLimits(const RpcServer::Options& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder->SetResourceQuota(grpc::ResourceQuota("lorad").Resize(kMaxCallBytes));
  builder->SetMaxSendMessageSize(-1);  // Lists and prompt log-probabilities are as long as what was asked for.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // One daemon a port: the second one must fail.
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                              static_cast<int>(std::min<int64_t>(options.max_concurrent_streams, 1 << 20)));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinClientPingMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  if (options.max_connection_age_seconds > 0) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                                static_cast<int>(options.max_connection_age_seconds * 1000));
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                                std::numeric_limits<int>::max());  // calls end as they would
  }
  // Ours are callback services; only reflection polls.
  builder->SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::NUM_CQS, 1);
  builder->SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::MAX_POLLERS, 1);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const Options& options, const Readiness* readiness,
                                                            Metrics* metrics, Log* log) {
  std::unique_ptr<RpcServer> rpc(new RpcServer(readiness, metrics, log));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.address, grpc::InsecureServerCredentials(), &port);
  SetLimits(options, &builder);
  builder.RegisterService(&rpc->inference_);
  builder.RegisterService(&rpc->adapters_);
  builder.RegisterService(&rpc->fine_tuning_);
  builder.RegisterService(&rpc->training_);
  rpc->server_ = builder.BuildAndStart();
  if (rpc->server_ == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat(
        "--listen: ", options.address, "; limit: a free port of this machine; stop what uses it, or give another"));
  }
  rpc->SetServing(false);
  rpc->address_ = absl::StrCat(options.address.substr(0, options.address.rfind(':')), ":", port);
  return rpc;
}

void RpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus(serving);  // The whole server: the empty name.
  for (const char* name : kHealthNames) health->SetServingStatus(name, serving);
}

void RpcServer::Shutdown(std::chrono::milliseconds patience) {
  server_->Shutdown(std::chrono::system_clock::now() + patience);
  server_->Wait();
}

}  // namespace lorad
