#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>

#include "lorad/v1/adapters.grpc.pb.h"
#include "server/backend.h"

namespace lorad {

// Service lorad.v1.Adapters: checks names and paths, hands commands to the engine, and reads lists off its snapshot.
// Loads may hang as long as a disk does: at most kMaxOpenLoads are under way, so that the engine always has room for
// unloads and pins.
class AdapterService final : public v1::Adapters::CallbackService {
 public:
  static constexpr int kMaxOpenLoads = 256;  // well below the engine's limit of commands

  AdapterService(const Readiness* readiness, Log* log) : readiness_(readiness), log_(log) {}

  grpc::ServerUnaryReactor* LoadAdapter(grpc::CallbackServerContext* context, const v1::LoadAdapterRequest* request,
                                        v1::Adapter* response) override;
  grpc::ServerUnaryReactor* UnloadAdapter(grpc::CallbackServerContext* context, const v1::UnloadAdapterRequest* request,
                                          v1::UnloadAdapterResponse* response) override;
  grpc::ServerUnaryReactor* ListAdapters(grpc::CallbackServerContext* context, const v1::ListAdaptersRequest* request,
                                         v1::ListAdaptersResponse* response) override;
  grpc::ServerUnaryReactor* GetAdapter(grpc::CallbackServerContext* context, const v1::GetAdapterRequest* request,
                                       v1::Adapter* response) override;
  grpc::ServerUnaryReactor* PinAdapter(grpc::CallbackServerContext* context, const v1::PinAdapterRequest* request,
                                       v1::Adapter* response) override;
  grpc::ServerUnaryReactor* RollbackAdapter(grpc::CallbackServerContext* context,
                                            const v1::RollbackAdapterRequest* request, v1::Adapter* response) override;
  grpc::ServerWriteReactor<v1::MergeProgress>* MergeAdapter(grpc::CallbackServerContext* context,
                                                            const v1::MergeAdapterRequest* request) override;

 private:
  const Readiness* const readiness_;
  Log* const log_;
  std::atomic<int> open_loads_ = 0;
};

}  // namespace lorad
