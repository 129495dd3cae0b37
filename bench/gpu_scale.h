#pragma once

#include <cstdint>
#include <vector>

#include "bench/traffic.h"

namespace lorad::bench {

// `n` adapters whose ranks are these, in turn.
struct Kept {
  const char* name;
  std::vector<int64_t> ranks;
  std::vector<int64_t> counts;  // for each of which kept(n) is measured
};

// A request that is answered by the fast forms and by ours; rank 0: of the base.
struct Compared {
  int64_t prompt_tokens, rank;
};

// How much of everything gpu_bench does.
struct Scale {
  int64_t copied_bytes, matrix_side;
  std::vector<Compared> compared;
  int64_t compared_tokens;  // that each gets
  std::vector<int64_t> decode_batches;
  int64_t sampled_batch;  // the one of them that is measured with drawn tokens, too
  Ask decode;
  int64_t prefill_streams;
  Ask prefill;
  std::vector<int64_t> prefill_ranks;  // for each of which kept(n) of a prefill is measured
  int64_t kept_streams, kept_requests;
  int rounds;
  Ask kept;
  std::vector<Kept> series;
  int64_t cold_streams, cold_loads;
  Ask beside_cold;
  int64_t slots, slot_streams, slot_requests;
  Ask slot;
};

Scale Large();
Scale Small();  // for proving the program

}  // namespace lorad::bench
