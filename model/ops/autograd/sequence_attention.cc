#include "model/ops/autograd/sequence_attention.h"

#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ge.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>

#include "model/ops/autograd/head_attention.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

// [t, t] bool: which positions k (columns) position q (rows) does not see.
at::Tensor HiddenPositions(int64_t tokens, int64_t window_tokens, at::Device device) {
  const at::Tensor positions = at::arange(tokens, at::TensorOptions().dtype(at::kLong).device(device));
  const at::Tensor distance = positions.unsqueeze(1) - positions.unsqueeze(0);
  const at::Tensor future = distance < 0;
  return window_tokens == 0 ? future : future.logical_or(distance >= window_tokens);
}

// q [t, Hq, D], k, v [t, Hkv, D] -> [t, Hq * D]
at::Tensor AttendOne(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const SequenceAttentionArgs& args) {
  const int64_t tokens = q.size(0), heads = q.size(1), dim = q.size(2), kv_heads = k.size(1);
  const int64_t group = heads / kv_heads;
  // The query heads of one kv head lie one below the other, so that k and v are not repeated.
  const at::Tensor queries = q.to(at::kFloat)
                                 .reshape({tokens, kv_heads, group, dim})
                                 .permute({1, 2, 0, 3})
                                 .reshape({kv_heads, group * tokens, dim});
  const at::Tensor keys = k.to(at::kFloat).permute({1, 2, 0});    // [Hkv, D, t]
  const at::Tensor values = v.to(at::kFloat).permute({1, 0, 2});  // [Hkv, t, D]
  at::Tensor scores = at::bmm(queries, keys) * args.scale;
  if (args.softcap > 0) scores = at::tanh(scores / args.softcap) * args.softcap;
  scores = scores.view({kv_heads, group, tokens, tokens})
               .masked_fill(HiddenPositions(tokens, args.window_tokens, q.device()),
                            -std::numeric_limits<float>::infinity());
  const at::Tensor weights = at::softmax(scores, -1).view({kv_heads, group * tokens, tokens});
  return at::bmm(weights, values)
      .view({kv_heads, group, tokens, dim})
      .permute({2, 0, 1, 3})
      .reshape({tokens, heads * dim})
      .to(q.scalar_type());
}

}  // namespace

at::Tensor RotateHeads(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = cos.size(1), rest = x.size(2) - 2 * half;
  if (half == 0) return x;
  if (x.is_cpu() && x.scalar_type() == at::kFloat && cos.scalar_type() == at::kFloat) {
    return RotateRowsOfHeads(x, cos, sin);
  }
  const at::Tensor first = x.narrow(2, 0, half), second = x.narrow(2, half, half);
  const at::Tensor c = cos.unsqueeze(1), s = sin.unsqueeze(1);
  std::vector<at::Tensor> parts = {first * c - second * s, second * c + first * s};
  if (rest > 0) parts.push_back(x.narrow(2, 2 * half, rest));
  return at::cat(parts, 2);
}

at::Tensor SequenceAttention(const SequenceAttentionArgs& args) {
  const at::ScalarType dtype = args.q.scalar_type();
  if (args.q.is_cpu() && (dtype == at::kFloat || dtype == at::kBFloat16)) {
    const at::Tensor q = args.q.to(at::kFloat), k = args.k.to(at::kFloat), v = args.v.to(at::kFloat);
    return HeadAttention({q, k, v, args.starts, args.window_tokens, args.scale, args.softcap}).to(dtype);
  }
  std::vector<at::Tensor> mixed;
  for (size_t s = 0; s + 1 < args.starts.size(); ++s) {
    const int64_t begin = args.starts[s], tokens = args.starts[s + 1] - begin;
    if (tokens == 0) continue;
    BeginPiece(2 * tokens * tokens * args.q.size(1) * args.q.size(2));
    mixed.push_back(AttendOne(args.q.narrow(0, begin, tokens), args.k.narrow(0, begin, tokens),
                              args.v.narrow(0, begin, tokens), args));
  }
  return at::cat(mixed, 0);
}

}  // namespace lorad
