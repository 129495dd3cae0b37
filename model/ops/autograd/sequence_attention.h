#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lorad {

// Causal attention over whole sequences, without a cache: what training computes where serving has RopeKvWrite and
// PagedAttention, as those say, and differentiable in q, k and v.
//
// Memory   on the CPU as head_attention.h says, elsewhere as query_attention.h. Errors   thrown by LibTorch: call under
// Guarded.

// Rotates the first 2 * cos.size(1) coordinates of every head, half-split. x [T, heads, D]; cos, sin [T, rotary / 2].
at::Tensor RotateHeads(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

struct SequenceAttentionArgs {
  const at::Tensor& q;                 // [T, Hq, D], rotated
  const at::Tensor& k;                 // [T, Hkv, D], rotated
  const at::Tensor& v;                 // [T, Hkv, D]
  const std::vector<int32_t>& starts;  // [S+1]; rows starts[s]..starts[s+1] are positions 0.. of sequence s
  int64_t window_tokens;               // 0 = all
  double scale;
  double softcap;  // 0 = none
};
// -> [T, Hq * D], in q's dtype; sums in f32.
at::Tensor SequenceAttention(const SequenceAttentionArgs& args);

}  // namespace lorad
