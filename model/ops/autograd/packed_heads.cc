#include "model/ops/autograd/packed_heads.h"

#include <ATen/ops/empty.h>

#include "model/ops/cpu/f32_panels.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

constexpr int64_t kProductsOfFloat = 32;  // that take as long as a float takes to be packed, about

}  // namespace

template <typename Floats, typename Pack>
PackedHeads::PackedHeads(const AttentionShape& shape, const Floats& floats, const Pack& pack) {
  int64_t sum = 0;
  for (int64_t sequence = 0; sequence < shape.sequences(); ++sequence) {
    first_.push_back(sum);
    of_head_.push_back(floats(shape.tokens_of(sequence)));
    sum += shape.kv_heads * of_head_.back();
  }
  floats_ = at::empty({sum}, at::kFloat);
  float* const to = floats_.mutable_data_ptr<float>();
  TasksInPieces(
      shape.sequences() * shape.kv_heads,
      [&](int64_t task) { return kProductsOfFloat * of_head_[task / shape.kv_heads]; },
      [&](int64_t task) {
        const int64_t sequence = task / shape.kv_heads, head = task % shape.kv_heads;
        const int64_t tokens = shape.tokens_of(sequence);
        if (tokens > 0) pack(shape.starts[sequence], head, tokens, to + first_[sequence] + head * of_head_[sequence]);
      });
}

PackedHeads PackedHeads::Columns(const AttentionShape& shape, const at::Tensor& x) {
  const Heads heads = HeadsOf(x);
  return PackedHeads(
      shape, [&](int64_t tokens) { return cpu::F32WeightElements(tokens, shape.dim); },
      [&](int64_t row, int64_t head, int64_t tokens, float* to) {
        cpu::PackF32Panels(heads.At(row, head), heads.stride, tokens, shape.dim, to);
      });
}

PackedHeads PackedHeads::Rows(const AttentionShape& shape, const at::Tensor& x) {
  const Heads heads = HeadsOf(x);
  return PackedHeads(
      shape, [&](int64_t tokens) { return cpu::F32WeightElements(shape.dim, tokens); },
      [&](int64_t row, int64_t head, int64_t tokens, float* to) {
        cpu::TransposeF32Rows({heads.At(row, head), heads.stride, tokens, 0, shape.dim}, to);
      });
}

}  // namespace lorad
