#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "lorad/v1/finetuning.grpc.pb.h"

namespace lorad {

// Refuses a call by its name. Reflection lists these services, so that a client sees what is to come and gets a plain
// answer instead of "unknown service".
grpc::ServerUnaryReactor* RefuseUnimplemented(grpc::CallbackServerContext* context, const char* method);

class TrainingService final : public v1::Training::CallbackService {
 public:
  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;
  Reactor* CreateRun(Context* context, const v1::CreateRunRequest*, v1::Run*) override {
    return RefuseUnimplemented(context, "Training.CreateRun");
  }
  Reactor* ForwardBackward(Context* context, const v1::ForwardBackwardRequest*, v1::ForwardBackwardResponse*) override {
    return RefuseUnimplemented(context, "Training.ForwardBackward");
  }
  Reactor* OptimStep(Context* context, const v1::OptimStepRequest*, v1::OptimStepResponse*) override {
    return RefuseUnimplemented(context, "Training.OptimStep");
  }
  Reactor* SaveState(Context* context, const v1::SaveStateRequest*, v1::SaveStateResponse*) override {
    return RefuseUnimplemented(context, "Training.SaveState");
  }
  Reactor* LoadState(Context* context, const v1::LoadStateRequest*, v1::Run*) override {
    return RefuseUnimplemented(context, "Training.LoadState");
  }
  Reactor* SaveForSampling(Context* context, const v1::SaveForSamplingRequest*, v1::SaveForSamplingResponse*) override {
    return RefuseUnimplemented(context, "Training.SaveForSampling");
  }
  Reactor* DeleteRun(Context* context, const v1::DeleteRunRequest*, v1::DeleteRunResponse*) override {
    return RefuseUnimplemented(context, "Training.DeleteRun");
  }
};

}  // namespace lorad
