#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "absl/status/statusor.h"
#include "lorad/v1/inference.pb.h"
#include "server/backend.h"
#include "server/metrics/metrics.h"
#include "server/prompt_call.h"

namespace lorad {

// One Classify call: a prompt without an answer, whose last token's class logits come back. Threads, lives: as a
// PromptCall.
class ClassifyReactor final : public grpc::ServerUnaryReactor, public PromptCall {
 public:
  static ClassifyReactor* Start(grpc::CallbackServerContext* context, const absl::StatusOr<const Backend*>& backend,
                                const v1::ClassifyRequest& request, v1::ClassifyResponse* response,
                                RequestNumbers* numbers, Metrics* metrics);

 private:
  ClassifyReactor(const Backend* backend, v1::ClassifyResponse* response, Metrics* metrics)
      : PromptCall(backend), response_(response), metrics_(metrics) {}
  absl::Status Begin(const Arrival& arrival, const v1::ClassifyRequest& request, RequestNumbers* numbers);
  void Handle(const TokenEvent& event) override;
  void End(const absl::Status& status) override;

  void OnCancel() override;
  void OnDone() override;

  v1::ClassifyResponse* const response_;
  Metrics* const metrics_;
};

}  // namespace lorad
