#include "server/unimplemented_services.h"

#include <string>

namespace lorad {
namespace {

grpc::Status NotInThisVersion(const char* method) {
  return grpc::Status(grpc::StatusCode::UNIMPLEMENTED,
                      std::string(method) + ": fine-tuning is not supported in this version");
}

}  // namespace

grpc::ServerUnaryReactor* RefuseUnimplemented(grpc::CallbackServerContext* context, const char* method) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(NotInThisVersion(method));
  return reactor;
}

grpc::ServerWriteReactor<v1::JobEvent>* FineTuningService::WatchJob(Context*, const v1::WatchJobRequest*) {
  class Refusal final : public grpc::ServerWriteReactor<v1::JobEvent> {
   public:
    Refusal() { Finish(NotInThisVersion("FineTuning.WatchJob")); }
    void OnDone() override { delete this; }
  };
  return new Refusal();
}

}  // namespace lorad
