#include "scheduler/forward_builder.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>

#include "model/base/check.h"
#include "model/kv/kv_layout.h"
#include "model/ops/draw_row.h"

namespace lorad {
namespace {

at::Tensor Int32Tensor(const std::vector<int32_t>& values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kInt);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int32_t>());
  return tensor;
}

// `rows` more rows on `terms`.
void Extend(int64_t rows, absl::Span<const SlotTerm> terms, RowSegments* segments) {
  if (rows == 0) return;
  if (const int64_t groups = segments->groups(); groups > 0) {
    const int32_t last = segments->term_starts[static_cast<size_t>(groups - 1)];
    const auto same = [](const SlotTerm& a, const SlotTerm& b) { return a.slot == b.slot && a.scale == b.scale; };
    if (std::equal(segments->terms.begin() + last, segments->terms.end(), terms.begin(), terms.end(), same)) {
      segments->starts.back() += static_cast<int32_t>(rows);
      return;
    }
  }
  segments->starts.push_back(segments->starts.back() + static_cast<int32_t>(rows));
  segments->terms.insert(segments->terms.end(), terms.begin(), terms.end());
  segments->term_starts.push_back(static_cast<int32_t>(segments->terms.size()));
}

// Positions of the row whose logits are wanted, as offsets into it.
std::vector<int64_t> LogitOffsets(const ExecRow& row) {
  const auto tokens = static_cast<int64_t>(row.token_ids.size());
  const auto prompt_tokens = static_cast<int64_t>(row.prompt_ids.size());
  std::vector<int64_t> offsets;
  if (row.prompt_logprobs) {
    const int64_t end = std::min(tokens, prompt_tokens - 1 - row.first_position);
    for (int64_t i = 0; i < end; ++i) offsets.push_back(i);
  }
  if (row.sample && (offsets.empty() || offsets.back() != tokens - 1)) offsets.push_back(tokens - 1);
  return offsets;
}

}  // namespace

BuiltBatch BuildForward(absl::Span<const ExecRow> rows) {
  BuiltBatch built;
  std::vector<int32_t> token_ids, positions, cu_rows = {0}, kv_slots, logit_rows;
  size_t most_blocks = 1;
  for (const ExecRow& row : rows) {
    const auto first_row = static_cast<int64_t>(token_ids.size());
    const auto tokens = static_cast<int64_t>(row.token_ids.size());
    const int64_t context_tokens = row.first_position + tokens;
    LORAD_CHECK_GE(static_cast<int64_t>(row.blocks.size()) * kKvBlockTokens, context_tokens);
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t position = row.first_position + i;
      token_ids.push_back(row.from_draw >= 0 ? TokenOfDraw(row.from_draw) : row.token_ids[i]);
      positions.push_back(static_cast<int32_t>(position));
      kv_slots.push_back(
          static_cast<int32_t>(row.blocks[position / kKvBlockTokens] * kKvBlockTokens + position % kKvBlockTokens));
    }
    cu_rows.push_back(static_cast<int32_t>(token_ids.size()));
    const std::vector<int64_t> offsets = LogitOffsets(row);
    built.logits.push_back(
        {.first_row = static_cast<int64_t>(logit_rows.size()), .rows = static_cast<int64_t>(offsets.size())});
    for (const int64_t offset : offsets) logit_rows.push_back(static_cast<int32_t>(first_row + offset));
    const int64_t on_base = std::clamp<int64_t>(row.active_from - row.first_position, 0, tokens);
    Extend(on_base, {}, &built.batch.rows);
    Extend(tokens - on_base, row.terms, &built.batch.rows);
    const auto first_active = std::lower_bound(offsets.begin(), offsets.end(), on_base);
    Extend(first_active - offsets.begin(), {}, &built.batch.head_rows);
    Extend(offsets.end() - first_active, row.terms, &built.batch.head_rows);
    built.batch.sequence_tokens.push_back(row.sequence_tokens());
    most_blocks = std::max(most_blocks, row.blocks.size());
    built.batch.max_context_tokens = std::max(built.batch.max_context_tokens, context_tokens);
  }
  built.batch.token_ids = Int32Tensor(token_ids);
  built.batch.positions = Int32Tensor(positions);
  built.batch.cu_rows = Int32Tensor(cu_rows);
  built.batch.kv_slots = Int32Tensor(kv_slots);
  built.batch.logit_rows = Int32Tensor(logit_rows);
  at::Tensor block_table =
      at::full({static_cast<int64_t>(rows.size()), static_cast<int64_t>(most_blocks)}, -1, at::kInt);
  for (size_t s = 0; s < rows.size(); ++s) {
    std::copy(rows[s].blocks.begin(), rows[s].blocks.end(), block_table.mutable_data_ptr<int32_t>() + s * most_blocks);
  }
  built.batch.block_table = std::move(block_table);
  return built;
}

}  // namespace lorad
