#pragma once

#include <utility>

#include "model/kv/kv_layout.h"
#include "scheduler/planner.h"

namespace lorad {

// Builds planner inputs with words. Sequences get ids 1, 2, … in the order in which they are named; there is room for
// everything unless said otherwise.
class PlanInputBuilder final {
 public:
  PlanInputBuilder() {
    input_.token_budget = 1000;
    input_.max_sequences = 100;
    input_.available_pages = 1000;
    input_.max_overtakes = 2;
  }

  // Computed all but its newest token.
  PlanInputBuilder& Decoding(int64_t known_tokens, AdapterId adapter = 0) {
    return Running(known_tokens - 1, known_tokens, adapter);
  }
  PlanInputBuilder& Running(int64_t computed_tokens, int64_t known_tokens, AdapterId adapter = 0) {
    PlanSequence sequence;
    sequence.id = next_++;
    sequence.computed_tokens = computed_tokens;
    sequence.known_tokens = known_tokens;
    sequence.blocks = (computed_tokens + kKvBlockTokens - 1) / kKvBlockTokens;
    sequence.sole_blocks = sequence.blocks;
    if (adapter != 0) sequence.adapters = {{.id = adapter}};
    input_.running.push_back(sequence);
    return *this;
  }
  PlanInputBuilder& Waiting(int64_t tokens, AdapterReadiness readiness = AdapterReadiness::kReady,
                            int64_t overtaken = 0) {
    PlanSequence sequence;
    sequence.id = next_++;
    sequence.known_tokens = tokens;
    sequence.readiness = readiness;
    sequence.overtaken = overtaken;
    input_.waiting.push_back(sequence);
    return *this;
  }
  PlanInputBuilder& OnIdleAdapter(AdapterId adapter, int64_t pages) {
    input_.waiting.back().adapters.push_back({.id = adapter, .idle_pages = pages});
    return *this;
  }
  // Of the one named last; without, it counts for nobody.
  PlanInputBuilder& OfAccount(uint64_t account) {
    (input_.waiting.empty() ? input_.running : input_.waiting).back().account = account;
    return *this;
  }
  PlanInputBuilder& RunningLimit(int64_t sequences) {
    input_.max_running_per_account = sequences;
    return *this;
  }
  // Of the waiting one named last: blocks that the prefix cache has, `idle` of them held by nobody.
  PlanInputBuilder& Cached(int64_t blocks, int64_t idle) {
    PlanSequence& sequence = input_.waiting.back();
    sequence.computed_tokens = blocks * kKvBlockTokens;
    sequence.blocks = blocks;
    sequence.idle_blocks = idle;
    return *this;
  }
  // Of the running one named last: blocks that others hold too.
  PlanInputBuilder& Sharing(int64_t blocks) {
    input_.running.back().sole_blocks -= blocks;
    return *this;
  }
  // Of the one named last.
  PlanInputBuilder& NextBlock(uint64_t key) {
    (input_.waiting.empty() ? input_.running : input_.waiting).back().next_block = key;
    return *this;
  }
  PlanInputBuilder& RowLimit(int64_t tokens) {
    (input_.waiting.empty() ? input_.running : input_.waiting).back().row_limit_tokens = tokens;
    return *this;
  }
  PlanInputBuilder& Budget(int64_t tokens) {
    input_.token_budget = tokens;
    return *this;
  }
  PlanInputBuilder& Seats(int64_t sequences) {
    input_.max_sequences = sequences;
    return *this;
  }
  PlanInputBuilder& Pages(int64_t available, int64_t watermark = 0) {
    input_.available_pages = available;
    input_.watermark_pages = watermark;
    return *this;
  }
  PlanInput Build() { return std::move(input_); }

 private:
  PlanInput input_;
  SequenceId next_ = 1;
};

}  // namespace lorad
