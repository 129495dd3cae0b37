#include <grpcpp/grpcpp.h>

#include "clients/loadgen/transport.h"
#include "lorad/v1/inference.grpc.pb.h"

namespace lorad {
namespace {

v1::GenerateRequest ToProto(const Call& call) {
  v1::GenerateRequest request;
  request.set_adapter(call.adapter);
  auto* ids = request.mutable_token_ids()->mutable_ids();
  ids->Add(call.prompt.begin(), call.prompt.end());
  request.mutable_sampling()->set_max_tokens(static_cast<uint32_t>(call.request.output_tokens));
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

void SetEnd(const grpc::Status& status, v1::FinishReason reason, bool cancelled, Outcome* outcome) {
  outcome->detail = status.error_message();
  if (status.ok()) {
    outcome->end = reason == v1::FINISH_REASON_LENGTH || reason == v1::FINISH_REASON_STOP ? CallEnd::kComplete
                   : reason == v1::FINISH_REASON_ABORT                                    ? CallEnd::kAborted
                                                                                          : CallEnd::kBroken;
    return;
  }
  switch (status.error_code()) {
    case grpc::StatusCode::CANCELLED:
      outcome->end = cancelled ? CallEnd::kCancelled : CallEnd::kBroken;
      return;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      outcome->end = CallEnd::kDeadline;
      return;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::NOT_FOUND:
      outcome->end = CallEnd::kRefused;
      return;
    default:
      outcome->end = CallEnd::kBroken;
  }
}

class GrpcTransport final : public Transport {
 public:
  explicit GrpcTransport(const std::string& address)
      : stub_(v1::Inference::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))) {}

  Outcome Run(const Call& call, const Stopwatch& watch) override {
    const v1::GenerateRequest request = ToProto(call);
    grpc::ClientContext context;
    if (call.request.deadline_s > 0) {
      context.set_deadline(std::chrono::system_clock::now() +
                           std::chrono::microseconds(static_cast<int64_t>(call.request.deadline_s * 1e6)));
    }
    Outcome outcome;
    outcome.sent_s = watch.Seconds();
    const auto reader = stub_->Generate(&context, request);
    v1::GenerateResponse response;
    v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
    int64_t tokens = 0;
    bool cancelled = false;
    while (reader->Read(&response)) {
      if (response.token_ids_size() > 0) outcome.arrivals.push_back({watch.Seconds(), response.token_ids_size()});
      tokens += response.token_ids_size();
      if (response.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
        reason = response.finish_reason();
        outcome.detail = response.abort_detail();
      }
      if (!cancelled && call.request.cancel_after_tokens >= 0 && tokens >= call.request.cancel_after_tokens) {
        context.TryCancel();
        cancelled = true;
      }
    }
    const std::string abort_detail = outcome.detail;
    SetEnd(reader->Finish(), reason, cancelled, &outcome);
    if (outcome.end == CallEnd::kAborted) outcome.detail = abort_detail;
    outcome.end_s = watch.Seconds();
    return outcome;
  }

 private:
  const std::unique_ptr<v1::Inference::Stub> stub_;
};

}  // namespace

std::unique_ptr<Transport> MakeGrpcTransport(const std::string& address) {
  return std::make_unique<GrpcTransport>(address);
}

}  // namespace lorad
