#include "clients/adapterctl/answer.h"

#include <grpcpp/client_context.h>

#include <chrono>

#include "clients/adapterctl/output.h"
#include "lorad/v1/inference.grpc.pb.h"

namespace lorad::adapterctl {
namespace {

constexpr double kFarSeconds = 10 * 365.25 * 24 * 3600;  // As good as never, and within what clocks can hold.

nlohmann::ordered_json TokensJson(const std::vector<v1::TokenLogprob>& tokens) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const v1::TokenLogprob& token : tokens) array.push_back(ToJson(token));
  return array;
}

}  // namespace

Answer Generate(const std::shared_ptr<grpc::Channel>& channel, const v1::GenerateRequest& request,
                double timeout_seconds, const std::function<void(const v1::GenerateResponse&)>& on_delta) {
  Answer answer;
  answer.adapter = request.adapter();
  const auto stub = v1::Inference::NewStub(channel);
  grpc::ClientContext context;
  if (timeout_seconds > 0 && timeout_seconds < kFarSeconds) {
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(static_cast<int64_t>(timeout_seconds * 1000)));
  }
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    if (message.index() >= answer.sequences.size()) answer.sequences.resize(message.index() + 1);
    AnswerSequence& sequence = answer.sequences[message.index()];
    sequence.text += message.text();
    sequence.token_ids.insert(sequence.token_ids.end(), message.token_ids().begin(), message.token_ids().end());
    sequence.logprobs.insert(sequence.logprobs.end(), message.logprobs().begin(), message.logprobs().end());
    sequence.prompt_logprobs.insert(sequence.prompt_logprobs.end(), message.prompt_logprobs().begin(),
                                    message.prompt_logprobs().end());
    if (message.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
      sequence.finish_reason = message.finish_reason();
      sequence.abort_detail = message.abort_detail();
      sequence.usage = message.usage();
    }
    if (on_delta) on_delta(message);
  }
  answer.status = reader->Finish();
  return answer;
}

nlohmann::ordered_json ToJson(const Answer& answer) {
  nlohmann::ordered_json sequences = nlohmann::ordered_json::array();
  for (size_t i = 0; i < answer.sequences.size(); ++i) {
    const AnswerSequence& sequence = answer.sequences[i];
    nlohmann::ordered_json value = {{"index", i},
                                    {"text", sequence.text},
                                    {"token_ids", sequence.token_ids},
                                    {"finish_reason", NameOf(sequence.finish_reason)},
                                    {"abort_detail", sequence.abort_detail},
                                    {"usage", ToJson(sequence.usage)}};
    if (!sequence.logprobs.empty()) value["logprobs"] = TokensJson(sequence.logprobs);
    if (!sequence.prompt_logprobs.empty()) value["prompt_logprobs"] = TokensJson(sequence.prompt_logprobs);
    sequences.push_back(std::move(value));
  }
  return {{"adapter", answer.adapter}, {"sequences", std::move(sequences)}};
}

}  // namespace lorad::adapterctl
