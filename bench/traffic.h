#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "scheduler/clock.h"
#include "scheduler/engine.h"

namespace lorad::bench {

// A request of random prompt ids, and what it is to bring.
struct Ask {
  std::string adapter;  // "": the base
  int64_t prompt_tokens;
  int64_t output_tokens;
  float temperature = 0.0f;
  float top_p = 1.0f;
};

// What was to be measured cannot be; it goes as far as what measures several things.
struct PartFailed final : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// Throws PartFailed, if the device still answers; else as ExitIfBroken.
[[noreturn]] void Fail(const std::string& why);
// Where the device answers nothing but errors, nothing more can be measured or given back: says so, and the program
// ends at once with 3.
void ExitIfBroken();

// When its tokens came; microseconds of the steady clock.
struct Stream {
  int64_t submitted_us = 0;
  std::vector<int64_t> token_us;

  int64_t first_us() const { return token_us.front(); }
  int64_t last_us() const { return token_us.back(); }
};

// Sends requests to an engine as its front end does, and notes when tokens come. Once a request ended otherwise than by
// its last token, Send, Wait and Run fail with the reason: what is measured is whole.
//
// Threads  one; the engine's calls the sinks.
class Traffic final {
 public:
  // The engine outlives it. Ids of tokens are drawn below vocab_size.
  Traffic(Engine* engine, int64_t vocab_size) : engine_(engine), vocab_size_(vocab_size) {}
  ~Traffic();

  // Sends one; Wait says when it has ended.
  int64_t Send(const Ask& ask);
  Stream Wait(int64_t sent);
  // Sends all of them, `concurrency` at a time, and waits for the last.
  std::vector<Stream> Run(const std::vector<Ask>& asks, int64_t concurrency);

 private:
  class Sink;
  int64_t Finished();
  void FailIfOneDid(std::unique_lock<std::mutex> lock);

  Engine* const engine_;
  const int64_t vocab_size_;
  SteadyClock clock_;
  uint64_t drawn_ = 0;
  std::vector<std::shared_ptr<Sink>> sinks_;  // by what Send gave

  std::mutex mutex_;
  std::condition_variable ended_;
  int64_t finished_ = 0;
  std::string why_failed_;  // the first that did; "": none
};

// Tokens a second from the first request to the last token.
double TokensPerSecond(const std::vector<Stream>& streams);
// The same while all of them run: behind the last one's first token, up to the first one's last.
double SteadyTokensPerSecond(const std::vector<Stream>& streams);

}  // namespace lorad::bench
