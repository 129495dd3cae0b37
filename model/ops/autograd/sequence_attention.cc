#include "model/ops/autograd/sequence_attention.h"

#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include "model/ops/autograd/head_attention.h"
#include "model/ops/autograd/query_attention.h"

namespace lorad {

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
  return QueryAttention(args);
}

}  // namespace lorad
