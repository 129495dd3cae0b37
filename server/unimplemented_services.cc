#include "server/unimplemented_services.h"

#include <string>

namespace lorad {
namespace {

grpc::Status NotInThisVersion(const char* method) {
  return grpc::Status(grpc::StatusCode::UNIMPLEMENTED,
                      std::string(method) + ": not supported in this version; FineTuning.SubmitJob is");
}

}  // namespace

grpc::ServerUnaryReactor* RefuseUnimplemented(grpc::CallbackServerContext* context, const char* method) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(NotInThisVersion(method));
  return reactor;
}

}  // namespace lorad
