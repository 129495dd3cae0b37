#pragma once

#include <ATen/core/Tensor.h>

#include "model/ops/autograd/sequence_attention.h"

namespace lorad {

// SequenceAttention of f32 on the CPU as one step of the graph, on the compute team; backward computes the weights
// again. It is cut in pieces along heads and queries (attention_parts.h). Memory: copies of k and v, three in backward
// with sums of their gradients for each head of q; of each thread 64 rows' scores, in backward four times.
at::Tensor HeadAttention(const SequenceAttentionArgs& args);

// RotateHeads of the same: x [T, heads, D], each row's heads side by side.
at::Tensor RotateRowsOfHeads(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

}  // namespace lorad
