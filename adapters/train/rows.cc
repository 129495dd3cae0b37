#include "adapters/train/rows.h"

#include <algorithm>

#include <ATen/ops/tensor.h>

namespace lorad {
namespace {

at::Tensor Int32(const std::vector<int32_t>& values) { return at::tensor(values, at::TensorOptions().dtype(at::kInt)); }

RowSegments OneAdapter(int64_t rows) {
  return {.starts = {0, static_cast<int32_t>(rows)}, .term_starts = {0, 1}, .terms = {{.slot = 0, .scale = 1.0f}}};
}

}  // namespace

TrainRows BuildRows(const std::vector<Example>& examples) {
  TrainRows rows;
  std::vector<int32_t> ids, positions, starts = {0};
  for (const Example& example : examples) {
    const size_t tokens = example.token_ids.size();
    ids.insert(ids.end(), example.token_ids.begin(), example.token_ids.end());
    for (size_t i = 0; i < tokens; ++i) {
      positions.push_back(static_cast<int32_t>(i));
      rows.targets.push_back(i + 1 < tokens ? example.labels[i + 1] : kNotTrained);
    }
    starts.push_back(static_cast<int32_t>(ids.size()));
    rows.batch.sequence_tokens.push_back(static_cast<int64_t>(tokens));
    rows.batch.max_context_tokens = std::max(rows.batch.max_context_tokens, static_cast<int64_t>(tokens));
    rows.trained_tokens += TrainedTokens(example);
  }
  rows.batch.token_ids = Int32(ids);
  rows.batch.positions = Int32(positions);
  rows.batch.cu_rows = Int32(starts);
  rows.batch.rows = OneAdapter(static_cast<int64_t>(ids.size()));
  return rows;
}

ForwardBatch WithLogitRows(const ForwardBatch& batch, const std::vector<int32_t>& rows) {
  ForwardBatch wanted = batch;
  wanted.logit_rows = Int32(rows);
  wanted.head_rows = OneAdapter(static_cast<int64_t>(rows.size()));
  return wanted;
}

}  // namespace lorad
