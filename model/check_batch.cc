#include "model/check_batch.h"

#include "absl/strings/str_cat.h"

namespace lorad {

absl::Status CheckBatch(const ForwardBatch& batch, const ModelConfig& config, const KvLayout& ours,
                        const KvLayout& theirs) {
  const int64_t max_positions = config.max_context_tokens;
  const int64_t rows = batch.token_ids.size(0);
  const bool shapes_agree = batch.positions.numel() == rows && batch.kv_slots.numel() == rows &&
                            batch.rows.rows() == rows && batch.cu_rows.numel() == batch.block_table.size(0) + 1 &&
                            batch.head_rows.rows() == batch.logit_rows.numel() && batch.logit_rows.numel() <= rows;
  if (!shapes_agree) {
    return absl::InternalError(
        absl::StrCat("forward batch is inconsistent: token_ids: ", rows, "; positions: ", batch.positions.numel(),
                     "; kv_slots: ", batch.kv_slots.numel(), "; rows: ", batch.rows.rows(),
                     "; cu_rows: ", batch.cu_rows.numel(), "; block_table rows: ", batch.block_table.size(0),
                     "; logit_rows: ", batch.logit_rows.numel(), "; head_rows: ", batch.head_rows.rows()));
  }
  const auto lengths = static_cast<int64_t>(batch.sequence_tokens.size());
  if (lengths != batch.block_table.size(0) && (lengths > 0 || config.rope_switch.every_tokens > 0)) {
    return absl::InternalError(
        absl::StrCat("forward batch: sequence_tokens: ", lengths, "; sequences: ", batch.block_table.size(0)));
  }
  if (batch.max_context_tokens < 1 || batch.max_context_tokens > max_positions) {
    return absl::InternalError(
        absl::StrCat("forward batch: max_context_tokens: ", batch.max_context_tokens, "; limit: ", max_positions));
  }
  if (ours.block_bytes() != theirs.block_bytes() || ours.dtype != theirs.dtype) {
    return absl::InternalError(absl::StrCat("KV cache is not this model's: block bytes: ", theirs.block_bytes(),
                                            "; expected: ", ours.block_bytes()));
  }
  return absl::OkStatus();
}

}  // namespace lorad
