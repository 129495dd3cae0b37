#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "lorad/v1/inference.pb.h"
#include "model/sampler/sampling_options.h"
#include "scheduler/request.h"
#include "server/text_stream.h"

namespace lorad {

// Turns the engine's events of one request into the messages of its answer, and knows when the answer is complete. Pure
// but for its state; the caller sends. Every sequence gets exactly one message with a finish_reason, or the whole
// request ends in a status because none of it was begun. Not thread-safe.
class ReplyBuilder final {
 public:
  ReplyBuilder(int32_t n, int64_t prompt_tokens, SamplingOptions sampling,
               const std::function<PieceDecoder()>& make_decoder);

  struct Reply {
    std::vector<v1::GenerateResponse> messages;
    bool stopped = false;  // a stop string ended the event's sequence: the engine may let go of it
  };
  Reply Build(const TokenEvent& event);

  // Ends every sequence that has not ended, as aborted.
  std::vector<v1::GenerateResponse> AbortRest(const std::string& detail);

  // Every sequence ended. Then `status` is what the call ends with.
  bool complete() const { return ended_ == static_cast<int32_t>(sequences_.size()); }
  absl::Status status() const { return begun_ ? absl::OkStatus() : refused_; }

 private:
  struct Sequence {
    std::unique_ptr<TextStream> text;
    int64_t cached_tokens = 0;
    bool ended = false;
    bool held_refusal = false;  // never begun, while others may still begin
  };
  // Tokens of the event into the message, up to the one that completes a stop string. True if one did.
  bool AddTokens(const TokenEvent& event, Sequence* sequence, v1::GenerateResponse* message);
  void AddEnd(const TokenEvent& event, bool stopped, Sequence* sequence, v1::GenerateResponse* message);
  // Once one sequence has begun, those that never will end as aborted.
  void ReleaseRefused(std::vector<v1::GenerateResponse>* messages);

  const int64_t prompt_tokens_;
  const SamplingOptions sampling_;
  std::vector<Sequence> sequences_;
  int32_t ended_ = 0;
  bool begun_ = false;
  absl::Status refused_;
};

}  // namespace lorad
