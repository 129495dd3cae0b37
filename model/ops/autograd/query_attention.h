#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/ops/autograd/sequence_attention.h"

namespace lorad {

// SequenceAttention by LibTorch's operators, on any device and for any dtype, as one step of the graph: pieces of query
// rows of all heads, one after the other, each announced (model/ops/pieces.h). Nothing of the scores is kept: backward
// computes a piece's weights again, by the same operators and so to the same bits. Where the pieces are follows from
// shapes alone, and gradients of k and v are summed in the pieces' order.
//
// Memory   scores as ScoreBytes says, whatever the sequence's length; k and v of one sequence in f32, in backward their
// gradients too.
at::Tensor QueryAttention(const SequenceAttentionArgs& args);

// What scores of sequences of at most `tokens` take at once, in backward.
int64_t ScoreBytes(int64_t heads, int64_t tokens, bool has_softcap);

}  // namespace lorad
