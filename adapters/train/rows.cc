#include "adapters/train/rows.h"

#include <algorithm>

#include <ATen/ops/tensor.h>

namespace lorad {
namespace {

at::Tensor Int32(const std::vector<int32_t>& values) { return at::tensor(values, at::TensorOptions().dtype(at::kInt)); }

// Adds rows up to `end` that use the adapter `slot`; joins them to the segment before where that has the same.
void AppendSegment(int32_t end, int32_t slot, RowSegments* rows) {
  if (!rows->terms.empty() && rows->terms.back().slot == slot) {
    rows->starts.back() = end;
    return;
  }
  rows->starts.push_back(end);
  rows->terms.push_back({.slot = slot, .scale = 1.0f});
  rows->term_starts.push_back(static_cast<int32_t>(rows->terms.size()));
}

}  // namespace

TrainSequence SequenceOf(const Example& example) {
  TrainSequence sequence{example.token_ids, {}};
  if (!example.labels.empty()) sequence.targets.assign(example.labels.begin() + 1, example.labels.end());
  sequence.targets.resize(example.token_ids.size(), kNotTrained);
  return sequence;
}

TrainRows BuildRows(const std::vector<MicroBatchPart>& parts) {
  TrainRows rows;
  std::vector<int32_t> ids, positions, starts = {0};
  for (size_t p = 0; p < parts.size(); ++p) {
    int32_t of_part = 0;
    for (const TrainSequence& sequence : parts[p].sequences) {
      const auto tokens = static_cast<int64_t>(sequence.token_ids.size());
      for (int64_t t = 0; t < tokens; ++t) {
        const int32_t target = sequence.targets[static_cast<size_t>(t)];
        positions.push_back(static_cast<int32_t>(t));
        if (target == kNotTrained) continue;
        rows.trained.push_back(
            {static_cast<int32_t>(ids.size()) + static_cast<int32_t>(t), static_cast<int32_t>(p), of_part++, target});
      }
      ids.insert(ids.end(), sequence.token_ids.begin(), sequence.token_ids.end());
      starts.push_back(static_cast<int32_t>(ids.size()));
      rows.batch.sequence_tokens.push_back(tokens);
      rows.batch.max_context_tokens = std::max(rows.batch.max_context_tokens, tokens);
    }
    if (!parts[p].sequences.empty()) {
      AppendSegment(static_cast<int32_t>(ids.size()), static_cast<int32_t>(p), &rows.batch.rows);
    }
  }
  rows.batch.token_ids = Int32(ids);
  rows.batch.positions = Int32(positions);
  rows.batch.cu_rows = Int32(starts);
  return rows;
}

ForwardBatch WithLogitRows(const TrainRows& rows, size_t first, size_t count) {
  ForwardBatch wanted = rows.batch;
  std::vector<int32_t> logit_rows;
  for (size_t i = first; i < first + count; ++i) {
    logit_rows.push_back(rows.trained[i].row);
    AppendSegment(static_cast<int32_t>(logit_rows.size()), rows.trained[i].part, &wanted.head_rows);
  }
  wanted.logit_rows = Int32(logit_rows);
  return wanted;
}

}  // namespace lorad
