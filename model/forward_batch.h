#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/row_segments.h"

namespace lorad {

// The input of one step: T rows of S sequences, each row one token. All tensors int32, on the host as they are made,
// and on the model's device as layers see them.
struct ForwardBatch {
  at::Tensor token_ids;    // [T]; of those that the device alone knows yet, TokenOfDraw (ops/draw_row.h)
  at::Tensor positions;    // [T], from 0 in each sequence
  at::Tensor cu_rows;      // [S+1]; rows cu_rows[s]..cu_rows[s+1] are consecutive positions of sequence s
  at::Tensor kv_slots;     // [T]; block number * kKvBlockTokens + offset in the block: where the row's k and v go
  at::Tensor block_table;  // [S, M]; block numbers of sequence s in order; entries past its length are -1
  at::Tensor logit_rows;   // [L]; rows whose logits are wanted, ascending
  RowSegments rows;        // over the T rows
  RowSegments head_rows;   // over the L rows
  int64_t max_context_tokens = 0;  // the longest context in the batch, this step's rows included
  // [S]; all tokens that each sequence has so far, computed or not. A rope whose angles depend on the length goes by
  // it; may be empty where ModelConfig::rope_switch never switches.
  std::vector<int64_t> sequence_tokens = {};
  at::Tensor drawn = {};  // [R] on the device, the draws meant by token_ids; undefined: none are
};

}  // namespace lorad
