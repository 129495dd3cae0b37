#pragma once

#include <cstdint>
#include <vector>

#include "adapters/train/micro_batch_part.h"
#include "model/forward_batch.h"

namespace lorad {

// A row that predicts something.
struct TrainedRow {
  int32_t row;      // of the batch
  int32_t part;     // whose it is
  int32_t of_part;  // which of that part's trained rows it is
  int32_t target;
};

// The sequences of all parts as rows side by side, without padding; the rows of part i belong to slot i.
struct TrainRows {
  ForwardBatch batch;               // no cache, no logit rows
  std::vector<TrainedRow> trained;  // ascending
};

TrainRows BuildRows(const std::vector<MicroBatchPart>& parts);

// The same rows with the logits of trained rows [first, first + count) wanted.
ForwardBatch WithLogitRows(const TrainRows& rows, size_t first, size_t count);

}  // namespace lorad
