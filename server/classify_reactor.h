#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "lorad/v1/inference.pb.h"
#include "scheduler/request.h"
#include "server/backend.h"
#include "server/generate_reactor.h"
#include "server/metrics/metrics.h"

namespace lorad {

// One Classify call: a prompt without an answer, whose last token's class logits come back. Lives until gRPC and the
// engine have let go of it.
class ClassifyReactor final : public grpc::ServerUnaryReactor,
                              public TokenSink,
                              public std::enable_shared_from_this<ClassifyReactor> {
 public:
  static ClassifyReactor* Start(grpc::CallbackServerContext* context, const absl::StatusOr<const Backend*>& backend,
                                const v1::ClassifyRequest& request, v1::ClassifyResponse* response,
                                RequestNumbers* numbers, Metrics* metrics);

 private:
  ClassifyReactor(v1::ClassifyResponse* response, Metrics* metrics) : response_(response), metrics_(metrics) {}
  absl::Status Begin(const v1::ClassifyRequest& request, RequestNumbers* numbers);
  void BeginOrEnd(const v1::ClassifyRequest& request, RequestNumbers* numbers);
  void End(const absl::Status& status);  // with the lock

  // On the engine's thread: hand over to the pump's and to LongTexts.
  void OnEvent(TokenEvent event) override;
  void OnTokenizer(std::shared_ptr<const Tokenizer> tokenizer) override;
  // The request is in the engine's queue, and this is its tokenizer.
  void GivePrompt(std::shared_ptr<const Tokenizer> tokenizer);
  void Handle(const TokenEvent& event);
  void OnCancel() override;
  void OnDone() override;

  v1::ClassifyResponse* const response_;
  Metrics* const metrics_;
  std::shared_ptr<ClassifyReactor> self_;
  std::mutex mutex_;
  const Backend* backend_ = nullptr;
  int64_t arrival_us_ = 0;
  std::optional<int64_t> deadline_us_;
  RequestId id_ = 0;  // 0: not submitted
  // What makes a request whole that awaits its tokenizer.
  struct Awaiting {
    v1::ClassifyRequest proto;
    Request request;  // without its sink, which is this
  };
  std::unique_ptr<Awaiting> awaiting_;
  bool ended_ = false;
};

}  // namespace lorad
