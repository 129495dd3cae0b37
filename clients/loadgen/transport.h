#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "clients/loadgen/trace.h"

namespace lorad {

// Seconds since it was made.
class Stopwatch final {
 public:
  double Seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  std::chrono::steady_clock::time_point At(double seconds) const {
    return start_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

struct Call {
  TraceRequest request;
  std::string adapter;  // its name; "" is the base
  std::vector<uint32_t> prompt;
};

enum class CallEnd : uint8_t {
  kComplete,
  kCancelled,  // by us, as the trace says
  kDeadline,   // its deadline passed
  kRefused,    // never begun: queue full, no such adapter, draining, early abort
  kAborted,    // begun, and given up by the server
  kBroken,     // no proper end: the connection broke, or an answer that no server should give
};

// Tokens that came in one message.
struct Arrival {
  double at_s = 0;
  int64_t tokens = 0;
};

struct Outcome {
  CallEnd end = CallEnd::kBroken;
  std::string detail;  // why it was refused, aborted or broken
  double sent_s = 0;
  double end_s = 0;
  std::vector<Arrival> arrivals;

  int64_t Tokens() const {
    int64_t sum = 0;
    for (const Arrival& arrival : arrivals) sum += arrival.tokens;
    return sum;
  }
};

// Sends one request and reads its stream to the end; as many threads as like may call it at once.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual Outcome Run(const Call& call, const Stopwatch& watch) = 0;
};

// `address` HOST:PORT.
std::unique_ptr<Transport> MakeGrpcTransport(const std::string& address);

// POST /v1/completions with stream=true; the adapter's name, or `base_model`, goes into `model`.
std::unique_ptr<Transport> MakeHttpTransport(const std::string& address, const std::string& base_model);

}  // namespace lorad
