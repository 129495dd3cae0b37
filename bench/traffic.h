#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "scheduler/clock.h"
#include "scheduler/engine.h"

namespace lorad::bench {

// A request, greedy and of random prompt ids, and what it is to bring.
struct Ask {
  std::string adapter;  // "": the base
  int64_t prompt_tokens;
  int64_t output_tokens;
};

// When its tokens came; microseconds of the steady clock.
struct Stream {
  int64_t submitted_us = 0;
  std::vector<int64_t> token_us;

  int64_t first_us() const { return token_us.front(); }
  int64_t last_us() const { return token_us.back(); }
};

// Sends requests to an engine as its front end does, and notes when tokens come. Whatever ends otherwise than by its
// last token ends the program, with the reason: what is measured is whole.
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

  Engine* const engine_;
  const int64_t vocab_size_;
  SteadyClock clock_;
  uint64_t drawn_ = 0;
  std::vector<std::shared_ptr<Sink>> sinks_;  // by what Send gave

  std::mutex mutex_;
  std::condition_variable ended_;
  int64_t finished_ = 0;
};

// Tokens a second from the first request to the last token.
double TokensPerSecond(const std::vector<Stream>& streams);
// The same while all of them run: behind the last one's first token, up to the first one's last.
double SteadyTokensPerSecond(const std::vector<Stream>& streams);

}  // namespace lorad::bench
