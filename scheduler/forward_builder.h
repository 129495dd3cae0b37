#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/forward_batch.h"
#include "scheduler/plan.h"

namespace lorad {

// The device input of a step, and where each row's logits are in it.
struct BuiltBatch {
  ForwardBatch batch;
  struct Logits {
    int64_t first_row = 0;  // of [L, V]; the row's positions in order
    int64_t rows = 0;       // all its prompt positions that have a next one, and the one to sample from, if any
  };
  std::vector<Logits> logits;  // by row of the step
};

// Rows that follow each other on one adapter slot share a segment; base rows have none, and so have those of a sequence
// before its adapter is active. `batch.drawn` is the caller's to set where rows go on from draws.
BuiltBatch BuildForward(absl::Span<const ExecRow> rows);

}  // namespace lorad
