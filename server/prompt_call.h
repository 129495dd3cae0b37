#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>

#include "absl/status/status.h"
#include "scheduler/request.h"
#include "server/backend.h"

namespace lorad {

// Numbers that differ from request to request. Threads: any.
class RequestNumbers final {
 public:
  RequestId NextId();
  uint64_t DrawSeed();

 private:
  std::mutex mutex_;
  RequestId last_id_ = 0;
  std::mt19937_64 seeds_{std::random_device{}()};
};

// A call whose prompt the engine computes: what Generate and Classify have in common.
//
// Threads  OnEvent and OnTokenizer on the engine thread, which only hands over, and wakes the pump itself when it has
//          given all of a step's; the rest on the pump's, on LongTexts' and on gRPC's.
// Lives    until gRPC says OnDone and the engine has let go of the sink.
class PromptCall : public TokenSink, public std::enable_shared_from_this<PromptCall> {
 public:
  void OnEvent(TokenEvent event) final;
  void OnTokenizer(std::shared_ptr<const Tokenizer> tokenizer) final;

 protected:
  struct Arrival {  // Clock
    int64_t now_us;
    std::optional<int64_t> deadline_us;
  };
  // Puts the prompt that the call's message has into a request whose tokenizer is known.
  using AddPromptFn = std::function<absl::Status(Request* request)>;

  // Null: the call is refused before it begins.
  explicit PromptCall(const Backend* backend) : backend_(backend) {}

  void EndUnlessOk(const absl::Status& status);
  // Its adapter's tokenizer, or that the request awaits it.
  void FindTokenizer(Request* request) const;
  // Gives the request, but for its sink, to the engine. `add_prompt`: of a request that awaits its tokenizer.
  absl::Status Submit(Request request, AddPromptFn add_prompt);

  virtual void Handle(const TokenEvent& event) = 0;  // on the pump
  // With the lock: the request is whole, and the engine has it next.
  virtual void OnPrompt(const Request& request) {}
  virtual void End(const absl::Status& status) = 0;  // with the lock; once

  const Backend* const backend_;
  std::shared_ptr<PromptCall> self_;  // until OnDone
  std::mutex mutex_;
  RequestId id_ = 0;    // 0: not submitted
  bool ended_ = false;  // nothing may be sent any more

 private:
  // The request is in the engine's queue, and this is its tokenizer.
  void GivePrompt(std::shared_ptr<const Tokenizer> tokenizer);

  // What makes a request whole that awaits its tokenizer.
  struct Awaiting {
    Request request;  // without its sink, which is this
    AddPromptFn add_prompt;
  };
  std::unique_ptr<Awaiting> awaiting_;
};

}  // namespace lorad
