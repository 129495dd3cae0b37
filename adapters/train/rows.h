#pragma once

#include <cstdint>
#include <vector>

#include "adapters/train/example.h"
#include "model/forward_batch.h"

namespace lorad {

// The examples of one micro-batch as rows side by side, without padding; each example is a sequence of its own.
struct TrainRows {
  ForwardBatch batch;            // no cache, no logit rows; every row belongs to slot 0
  std::vector<int32_t> targets;  // [T]; the token that row t predicts, or kNotTrained
  int64_t trained_tokens = 0;
};

TrainRows BuildRows(const std::vector<Example>& examples);

// The same rows with logits of `rows` wanted.
ForwardBatch WithLogitRows(const ForwardBatch& batch, const std::vector<int32_t>& rows);

}  // namespace lorad
