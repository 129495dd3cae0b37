#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "model/kv/kv_layout.h"

namespace lorad {

// Causal attention of rows over their sequence's paged KV, prefill chunks and decode rows mixed. Row r of sequence s
// at position p attends to positions j with j <= p and (window == 0 or p - j < window), all of which are in the cache:
//
//   y[r, h] = sum_j softmax_j(cap(scale * q[r, h] . k[j, h / (Hq/Hkv)])) v[j, h / (Hq/Hkv)]      all in f32
//   cap(s) = softcap * tanh(s / softcap); softcap == 0: cap(s) = s.   Source: HF Gemma2 eager_attention_forward
//
// q [T, >= Hq * D] (the q columns of qkv: row stride may be larger); y [T, Hq * D]; positions [T], cu_rows [S+1],
// block_table [S, M] int32 as in ForwardBatch. dtype of q, y and the cache: the model's (f32, bf16).
// A row's result does not depend on the other rows. Source: vLLM's paged attention layout; flash attention's running
// softmax, arXiv 2205.14135.
struct PagedAttentionArgs {
  const at::Tensor& q;
  int64_t num_heads;
  const at::Tensor& positions;
  const at::Tensor& cu_rows;
  const at::Tensor& block_table;
  int64_t layer;
  int64_t window_tokens;
  double scale;
  double softcap;
  const KvView& kv;
  at::Tensor& y;
};
absl::Status PagedAttention(const PagedAttentionArgs& args);

}  // namespace lorad
