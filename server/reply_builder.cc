#include "server/reply_builder.h"

#include <algorithm>
#include <utility>

#include "model/base/check.h"
#include "server/to_proto.h"

namespace lorad {

ReplyBuilder::ReplyBuilder(int32_t n, int64_t prompt_tokens, SamplingOptions sampling,
                           const std::function<PieceDecoder()>& make_decoder)
    : prompt_tokens_(prompt_tokens), sampling_(std::move(sampling)) {
  for (int32_t i = 0; i < n; ++i) sequences_.push_back({std::make_unique<TextStream>(make_decoder(), sampling_)});
}

ReplyBuilder::Reply ReplyBuilder::Build(const TokenEvent& event) {
  LORAD_CHECK(event.index >= 0 && event.index < static_cast<int32_t>(sequences_.size()));
  Reply reply;
  Sequence& sequence = sequences_[event.index];
  if (sequence.ended) return reply;  // It ended at a stop string, and these were under way.

  if (event.finish && !event.finish->status.ok()) {
    sequence.ended = true;
    ++ended_;
    refused_.Update(event.finish->status);
    sequence.held_refusal = true;
    if (begun_) ReleaseRefused(&reply.messages);
    return reply;
  }

  begun_ = true;
  ReleaseRefused(&reply.messages);
  v1::GenerateResponse message;
  message.set_index(static_cast<uint32_t>(event.index));
  message.set_adapter(event.adapter);
  for (size_t i = 0; i < event.prompt_logprobs.size(); ++i) {
    *message.add_prompt_logprobs() = ToProto(event.prompt_logprobs[i], /*with_logprob=*/i > 0);
  }
  sequence.cached_tokens += event.cached_tokens;  // the first event's
  reply.stopped = AddTokens(event, &sequence, &message);
  if (event.finish || reply.stopped) AddEnd(event, reply.stopped, &sequence, &message);
  if (event.finish) reply.stopped = false;  // The engine has let go of it already.
  reply.messages.push_back(std::move(message));
  return reply;
}

bool ReplyBuilder::AddTokens(const TokenEvent& event, Sequence* sequence, v1::GenerateResponse* message) {
  const bool stop_token_last = event.finish && event.finish->reason == FinishReason::kStop;
  for (size_t i = 0; i < event.tokens.size(); ++i) {
    const TokenLogprob& token = event.tokens[i];
    const bool ends_here =
        stop_token_last && i + 1 == event.tokens.size() &&
        std::binary_search(sampling_.stop_token_ids.begin(), sampling_.stop_token_ids.end(), token.token_id);
    StopMatcher::Result result = sequence->text->Append(token.token_id, ends_here);
    message->mutable_text()->append(result.text);
    message->add_token_ids(static_cast<uint32_t>(token.token_id));
    if (sampling_.logprobs >= 0) *message->add_logprobs() = ToProto(token, /*with_logprob=*/true);
    if (result.stopped) return true;
  }
  return false;
}

void ReplyBuilder::AddEnd(const TokenEvent& event, bool stopped, Sequence* sequence, v1::GenerateResponse* message) {
  FinishReason reason = FinishReason::kStop;
  Usage usage;
  usage.prompt_tokens = prompt_tokens_;
  if (event.finish) {
    usage = event.finish->usage;
    reason = event.finish->reason;
  }
  if (!stopped) {
    StopMatcher::Result rest = sequence->text->Finish();
    message->mutable_text()->append(rest.text);
    stopped = rest.stopped;
  }
  if (stopped) reason = FinishReason::kStop;
  usage.completion_tokens = sequence->text->tokens();
  usage.cached_tokens = sequence->cached_tokens;
  message->set_finish_reason(ToProto(reason));
  *message->mutable_usage() = ToProto(usage);
  if (reason == FinishReason::kAbort) message->set_abort_detail(event.finish->abort_detail);
  sequence->ended = true;
  ++ended_;
}

void ReplyBuilder::ReleaseRefused(std::vector<v1::GenerateResponse>* messages) {
  if (refused_.ok()) return;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    if (!std::exchange(sequences_[i].held_refusal, false)) continue;
    v1::GenerateResponse message;
    message.set_index(static_cast<uint32_t>(i));
    message.set_finish_reason(v1::FINISH_REASON_ABORT);
    message.set_abort_detail(std::string(refused_.message().data(), refused_.message().size()));
    message.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(prompt_tokens_));
    messages->push_back(std::move(message));
  }
}

std::vector<v1::GenerateResponse> ReplyBuilder::AbortRest(const std::string& detail) {
  std::vector<v1::GenerateResponse> messages;
  begun_ = true;
  ReleaseRefused(&messages);
  for (size_t i = 0; i < sequences_.size(); ++i) {
    if (sequences_[i].ended) continue;
    TokenEvent event;
    event.index = static_cast<int32_t>(i);
    event.finish = Finish{absl::OkStatus(), FinishReason::kAbort, detail, Usage{prompt_tokens_, 0, 0}};
    v1::GenerateResponse message;
    message.set_index(static_cast<uint32_t>(i));
    AddEnd(event, /*stopped=*/false, &sequences_[i], &message);
    messages.push_back(std::move(message));
  }
  return messages;
}

}  // namespace lorad
