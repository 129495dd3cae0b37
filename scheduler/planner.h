#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "adapters/loader.h"
#include "scheduler/plan.h"

namespace lorad {

// Whether a waiting sequence could run on its adapters at once. The base is always ready.
enum class AdapterReadiness : uint8_t {
  kReady,
  kReading,       // a loader reads it: nothing that the scheduler holds back would make that faster
  kHanging,       // the same, for so long that it may never end
  kWaitsForRoom,  // others who begin take the memory that it waits for
};

// An adapter of a sequence.
struct PlanAdapter {
  AdapterId id = 0;
  int64_t idle_pages = 0;  // waiting sequences only: that beginning takes out of available_pages
};

// What the planner sees of a sequence.
struct PlanSequence {
  SequenceId id = 0;
  int64_t computed_tokens = 0;   // in flight ones included; waiting: those that the prefix cache has
  int64_t known_tokens = 0;      // prompt and generated; the planner wants all of them computed
  int64_t blocks = 0;            // KV blocks held; waiting: cached ones, to be held from its first step on
  int64_t sole_blocks = 0;       // running: of them, held by nobody else, so that preempting it frees them
  int64_t row_limit_tokens = 0;  // most tokens in one row; 0 = no limit
  absl::InlinedVector<PlanAdapter, 1> adapters = {};  // empty = base
  uint64_t account = 0;                               // whose running limit counts; 0 = nobody's
  // The next whole block of its prompt that it will compute, equal for equal blocks; 0 = none that others could use.
  uint64_t next_block = 0;
  // Waiting sequences only.
  AdapterReadiness readiness = AdapterReadiness::kReady;
  int64_t idle_blocks = 0;  // of `blocks`, those that beginning takes out of available_pages
  int64_t overtaken = 0;    // later ones that began before it
};

struct PlanInput {
  std::vector<PlanSequence> running = {};  // who goes first, first
  std::vector<PlanSequence> waiting = {};  // the same
  int64_t token_budget = 0;                // at least as many as running sequences
  int64_t max_sequences = 0;
  int64_t available_pages = 0;  // free, or held by idle adapters and cached blocks that may be evicted
  int64_t pages_per_block = 1;
  int64_t watermark_pages = 0;  // left free when a sequence begins, for the running ones to grow into
  int64_t max_overtakes = 0;
  int64_t max_running_per_account = 0;  // 0 = no limit
  bool may_keep_seat = true;            // false: reads hang, and nobody knows how long a kept seat would stay empty
};

// Decides one step. Pure.
//
// Running decodes first, then prompts of running sequences in chunks, then waiting ones in order, as far as tokens,
// seats and memory go; a running sequence without room for its next token takes that of the last in order (preempted:
// it will be computed again). One of an account that runs as many as it may is passed by. A waiting sequence whose
// adapter is not there is passed by, and counted as overtaken. After max_overtakes, if it waits for room, nothing
// behind it begins; if its adapter is being read, a seat and its memory are kept for the first such, so that those
// behind it begin beside it, not instead of it. One that does not fit is never passed by. One whose next block
// another one is computing is passed by until that block is there to be shared.
StepPlan PlanStep(const PlanInput& input);

}  // namespace lorad
