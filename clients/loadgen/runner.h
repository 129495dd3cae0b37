#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "clients/loadgen/transport.h"

namespace lorad {

struct RunOptions {
  int64_t concurrency = 16;     // closed loop: so many streams, each sends its next request when its last one ended
  bool open_loop = false;       // instead: requests are sent at their arrival times, however many run
  uint32_t vocab_size = 49152;  // prompts are random ids below it
  std::string adapter_prefix = "lora-";  // names are prefix + index
};

struct RunResult {
  std::vector<Outcome> outcomes;  // in the trace's order
  double seconds = 0;             // first request to last end
  // Closed loop: until here all streams were busy, the last request of the trace had just been sent.
  double full_seconds = 0;
};

RunResult RunTrace(const std::vector<TraceRequest>& trace, const RunOptions& options, Transport* transport);

}  // namespace lorad
