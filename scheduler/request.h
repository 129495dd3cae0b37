#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "model/sampler/sampling_options.h"

namespace lorad {

class Tokenizer;

using RequestId = uint64_t;  // drawn by the front end, unique in the process

enum class FinishReason : uint8_t { kStop, kLength, kAbort };

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
};

// The end of one sequence. `status` not ok: it was never begun (no token was computed) or is a Classify, which streams
// nothing, and the request ends with that status. Otherwise `reason` says why it ended; kAbort carries `abort_detail`.
struct Finish {
  absl::Status status;
  FinishReason reason = FinishReason::kStop;
  std::string abort_detail;
  Usage usage;
};

// What one step made for one sequence of a request.
struct TokenEvent {
  RequestId request = 0;
  int32_t index = 0;    // which of n
  std::string adapter;  // first event of a sequence: who answers (AnswersAs in scheduler/composition.h); "" = base
  int64_t cached_tokens = 0;  // first event: Usage::cached_tokens, for who ends the sequence before the engine does
  std::vector<TokenLogprob>
      prompt_logprobs;               // first event, when asked for: one a prompt token, the first without a value
  std::vector<TokenLogprob> tokens;  // generated, in order; the stop token that ended it is the last one, if any
  std::vector<float> class_logits;   // of a classification, in its only event
  std::optional<Finish> finish;      // at most once a sequence, in its last event
};

// Takes a request's events. Called on the engine thread, so it only hands the event over (a queue of the front end's).
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void OnEvent(TokenEvent event) = 0;
  // Of a request that awaits its tokenizer, at most once: its adapter was read, and this is the tokenizer (null: the
  // base's). Engine::GivePrompt or Cancel follows, from another thread.
  virtual void OnTokenizer(std::shared_ptr<const Tokenizer> tokenizer) {}
};

// An adapter of a composition; `scale` comes on top of its own.
struct RequestAdapter {
  std::string name;
  float scale = 1.0f;
};

// A generation, tokenised and with every default applied. Immutable once made.
struct Request {
  RequestId id = 0;
  std::string request_id;  // the caller's, for logs
  std::string adapter;     // name; "" = the base. Of a composition: the first, whose account it is
  std::vector<RequestAdapter> composition = {};  // in order, the first is `adapter`; none = `adapter` alone, as it is
  std::vector<int32_t> prompt_ids;
  // With which text becomes ids and back: that of the (first) adapter's folder, null = the base's.
  std::shared_ptr<const Tokenizer> tokenizer = nullptr;
  // Nobody has read the adapter yet, and its folder may have a tokenizer of its own. The request takes its place in the
  // queue as it is, a text without prompt_ids, and is made whole by Engine::GivePrompt.
  bool awaits_tokenizer = false;
  SamplingOptions sampling;  // of sequence 0; sequence i draws with seed + i
  // sampling.max_tokens is only what is left of the context: it shrinks to what memory can hold instead of being
  // refused.
  bool max_tokens_is_default = false;
  bool classify = false;  // no token is drawn: class logits of the prompt's last one, from the adapter's classifier
  int32_t n = 1;
  int32_t priority = 0;                // lower is sooner
  int64_t arrival_us = 0;              // Clock
  std::optional<int64_t> deadline_us;  // Clock
  std::shared_ptr<TokenSink> sink;
};

}  // namespace lorad
