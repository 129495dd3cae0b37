#pragma once

#include <ATen/core/Tensor.h>

#include "model/ops/autograd/sequence_attention.h"

namespace lorad {

// SequenceAttention of f32 on the CPU as one step of the graph, on the compute team; backward computes the weights
// again. Memory: of each thread 64 rows' scores and three copies of one head's keys.
at::Tensor HeadAttention(const SequenceAttentionArgs& args);

// RotateHeads of the same: x [T, heads, D], each row's heads side by side.
at::Tensor RotateRowsOfHeads(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

}  // namespace lorad
