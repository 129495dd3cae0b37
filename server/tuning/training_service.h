#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "lorad/v1/finetuning.grpc.pb.h"
#include "server/backend.h"

namespace lorad {

// Service Training: steps are the caller's, state is the daemon's (scheduler/tuning/training_runs.h). Errors:
// FailedPrecondition without --state-dir; else as there and in run_translate.h.
class TrainingService final : public v1::Training::CallbackService {
 public:
  explicit TrainingService(const Readiness* readiness) : readiness_(readiness) {}

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;
  Reactor* CreateRun(Context* context, const v1::CreateRunRequest* request, v1::Run* response) override;
  Reactor* ForwardBackward(Context* context, const v1::ForwardBackwardRequest* request,
                           v1::ForwardBackwardResponse* response) override;
  Reactor* OptimStep(Context* context, const v1::OptimStepRequest* request, v1::OptimStepResponse* response) override;
  Reactor* SaveState(Context* context, const v1::SaveStateRequest* request, v1::SaveStateResponse* response) override;
  Reactor* LoadState(Context* context, const v1::LoadStateRequest* request, v1::Run* response) override;
  Reactor* SaveForSampling(Context* context, const v1::SaveForSamplingRequest* request,
                           v1::SaveForSamplingResponse* response) override;
  Reactor* DeleteRun(Context* context, const v1::DeleteRunRequest* request, v1::DeleteRunResponse* response) override;
  Reactor* ListRuns(Context* context, const v1::ListRunsRequest* request, v1::ListRunsResponse* response) override;

 private:
  const Readiness* const readiness_;
};

}  // namespace lorad
