#pragma once

#include <cstdint>
#include <vector>

namespace lorad {

// What to ask for, drawn as in S-LoRA's benchmarks/trace.py (arXiv 2311.03285): which adapter, when, how long.
struct TraceOptions {
  int64_t requests = 128;
  int64_t adapters = 0;   // 0: every request goes to the base
  double alpha = 1;       // adapter = int(power(alpha) * adapters): 1 is uniform, smaller prefers the first ones
  double base_share = 0;  // of the requests, these go to the base all the same
  double rate_per_s = 0;  // 0: no arrival times (closed loop)
  double cv = 1;          // of the gaps between arrivals, which are Gamma distributed; 1 is Poisson
  int64_t min_prompt_tokens = 8, max_prompt_tokens = 128;
  int64_t min_output_tokens = 8, max_output_tokens = 128;
  double cancel_share = 0;    // cancelled by the client after a part of the answer
  double deadline_share = 0;  // sent with a deadline of deadline_s
  double deadline_s = 1;
  uint64_t seed = 42;
};

struct TraceRequest {
  double arrival_s = 0;
  int64_t adapter = -1;  // its index; -1 is the base
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t cancel_after_tokens = -1;  // -1: never
  double deadline_s = 0;             // 0: none
  uint64_t prompt_seed = 0;
};

// The same options give the same trace. Shares of cancels and deadlines change nothing else in it.
std::vector<TraceRequest> MakeTrace(const TraceOptions& options);

// Token ids 0 to `vocab_size` - 1, the same for the same seed.
std::vector<uint32_t> MakePrompt(const TraceRequest& request, uint32_t vocab_size);

}  // namespace lorad
