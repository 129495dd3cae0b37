#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "model/row_segments.h"
#include "model/sampler/sampling_options.h"

namespace lorad {

using SequenceId = uint64_t;

// One sequence's part of a step: positions first_position .. first_position + tokens. Plain data.
struct PlanRow {
  SequenceId sequence = 0;
  int64_t first_position = 0;
  int64_t tokens = 0;
  bool sample = false;  // the last of them is the newest token of the sequence: draw the next one
};

struct StepPlan {
  std::vector<SequenceId> preempt;    // to give back their memory and wait, before anything is reserved
  std::vector<PlanRow> rows;          // Reserve orders them by adapter slot
  std::vector<SequenceId> overtaken;  // waiting ones, once for each later request that begins in this step
};

// A row with all that executing it needs. Spans point into the Sequence.
struct ExecRow {
  SequenceId sequence = 0;
  int64_t first_position = 0;
  absl::Span<const int32_t> token_ids;  // to compute, consecutive positions
  // Not -1: the one token to compute is not known yet, it is what the step in flight draws as its from_draw-th (of the
  // rows that sample, from 0). token_ids has one that means nothing, and generated_ids ends before it.
  int64_t from_draw = -1;
  std::vector<int32_t> blocks;                  // block numbers of the sequence, in order, covering these positions
  absl::InlinedVector<SlotTerm, 1> terms = {};  // adapters, in order; empty = base
  int64_t active_from = 0;                      // the position from which `terms` count; those before: the base
  bool sample = false;
  int64_t vocab_size = 0;  // of an adapter with tokens of its own; 0 = the base's
  int32_t classes = 0;     // instead of a token, the first so many logits are wanted
  const SamplingOptions* sampling = nullptr;
  absl::Span<const int32_t> prompt_ids;
  absl::Span<const int32_t> generated_ids;  // that are known
  absl::Span<const int32_t> banned_ids;     // stop tokens while below min_tokens
  bool prompt_logprobs = false;             // of this row's prompt positions

  int64_t generated_tokens() const { return static_cast<int64_t>(generated_ids.size()) + (from_draw >= 0 ? 1 : 0); }
  int64_t sequence_tokens() const { return static_cast<int64_t>(prompt_ids.size()) + generated_tokens(); }
};

}  // namespace lorad
