#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "lorad/v1/inference.grpc.pb.h"
#include "server/backend.h"
#include "server/generate_reactor.h"

namespace lorad {

// Service lorad.v1.Inference. Everything it is given outlives it.
class InferenceService final : public v1::Inference::CallbackService {
 public:
  InferenceService(const Readiness* readiness, Metrics* metrics, Log* log)
      : readiness_(readiness), metrics_(metrics), log_(log) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context, const v1::GetModelInfoRequest* request,
                                         v1::ModelInfo* response) override;
  grpc::ServerUnaryReactor* Classify(grpc::CallbackServerContext* context, const v1::ClassifyRequest* request,
                                     v1::ClassifyResponse* response) override;

 private:
  const Readiness* const readiness_;
  Metrics* const metrics_;
  Log* const log_;
  RequestNumbers numbers_;
};

}  // namespace lorad
