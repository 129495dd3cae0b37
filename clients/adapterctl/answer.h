#pragma once

#include <grpcpp/channel.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lorad/v1/inference.pb.h"

namespace lorad::adapterctl {

// One of the n sequences of an answer.
struct AnswerSequence {
  std::string text;
  std::vector<uint32_t> token_ids;
  std::vector<v1::TokenLogprob> logprobs;
  std::vector<v1::TokenLogprob> prompt_logprobs;
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  std::string abort_detail;
  v1::Usage usage;
};

struct Answer {
  std::string adapter;  // as asked
  grpc::Status status;
  std::vector<AnswerSequence> sequences;
};

// Runs one Generate call to its end; `on_delta` sees each message as it comes. timeout_seconds 0: none.
Answer Generate(const std::shared_ptr<grpc::Channel>& channel, const v1::GenerateRequest& request,
                double timeout_seconds, const std::function<void(const v1::GenerateResponse&)>& on_delta);

nlohmann::ordered_json ToJson(const Answer& answer);

}  // namespace lorad::adapterctl
