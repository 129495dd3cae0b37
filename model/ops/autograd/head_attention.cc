#include "model/ops/autograd/head_attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "model/ops/autograd/attention_parts.h"
#include "model/ops/autograd/heads.h"
#include "model/ops/autograd/packed_heads.h"
#include "model/ops/cpu/f32_panels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/row_kernels.h"

namespace lorad {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Of a query, a key and a coordinate: scores and what is mixed by them; scores and the four gradients.
constexpr int64_t kForwardProducts = 2;
constexpr int64_t kBackwardProducts = 5;

// Parts of one of the thread's scratches.
class ScratchParts final {
 public:
  explicit ScratchParts(int64_t floats) : next_(cpu::ThreadScratch(cpu::Scratch::kWeights, floats)) {}
  float* Take(int64_t floats) {
    float* const taken = next_;
    next_ += floats;
    return taken;
  }

 private:
  float* next_;
};

// Scores [rows, keys] of a tile -> softmax weights, zeros where a query does not see. `capped` [rows, keys] gets the
// scores behind the softcap; null where there is none.
void WeighScores(const AttentionShape& shape, const AttentionTile& tile, float* scores, float* capped) {
  const int64_t keys = tile.keys();
  for (int64_t r = 0; r < tile.rows; ++r, scores += keys) {
    const int64_t end = tile.first + r + 1 - tile.first_key;
    const int64_t begin = shape.window_tokens == 0 ? 0 : std::max<int64_t>(0, end - shape.window_tokens);
    float factor = shape.scale;
    if (shape.softcap > 0) {
      for (int64_t c = begin; c < end; ++c) {
        scores[c] = shape.softcap * std::tanh(scores[c] * shape.scale / shape.softcap);
      }
      factor = 1.0f;
      if (capped != nullptr) std::copy_n(scores, keys, capped + r * keys);
    }
    const float max = cpu::MaxOf(scores + begin, end - begin);
    const auto sum = static_cast<float>(cpu::ExpRow(scores + begin, end - begin, max, factor, scores + begin));
    const float inverse = 1.0f / sum;
    for (int64_t c = begin; c < end; ++c) scores[c] *= inverse;
    std::fill(scores, scores + begin, 0.0f);
    std::fill(scores + end, scores + keys, 0.0f);
  }
}

// d_weights [rows, keys] -> the gradients of the products q k, in place.
void FollowSoftmax(const AttentionShape& shape, const AttentionTile& tile, const float* weights, const float* capped,
                   float* d_weights) {
  const int64_t keys = tile.keys();
  for (int64_t r = 0; r < tile.rows; ++r, weights += keys, d_weights += keys) {
    double sum = 0;
    for (int64_t c = 0; c < keys; ++c) sum += static_cast<double>(weights[c]) * d_weights[c];
    const auto mean = static_cast<float>(sum);
    for (int64_t c = 0; c < keys; ++c) d_weights[c] = weights[c] * (d_weights[c] - mean) * shape.scale;
    if (capped == nullptr) continue;
    for (int64_t c = 0; c < keys; ++c) {
      const float of_cap = weights[c] == 0.0f ? 0.0f : capped[r * keys + c] / shape.softcap;
      d_weights[c] *= 1.0f - of_cap * of_cap;
    }
  }
}

struct Operands {
  Heads q;
  PackedHeads keys;    // columns
  PackedHeads values;  // rows; for gradients columns
};

void Attend(const AttentionShape& shape, const Operands& of, const AttentionPart& part, const Heads& mixed) {
  const int64_t begin = shape.starts[part.sequence], tokens = shape.tokens_of(part.sequence), dim = shape.dim;
  const float* const keys = of.keys.Of(part.sequence, part.head / shape.group());
  const float* const values = of.values.Of(part.sequence, part.head / shape.group());
  float* const weights = ScratchParts(kTileRows * tokens).Take(kTileRows * tokens);
  for (int64_t first = part.first; first < part.end; first += kTileRows) {
    const AttentionTile tile = TileAt(shape, first, tokens);
    const int64_t row = begin + first, n = tile.keys();
    cpu::F32Products(
        {{of.q.At(row, part.head), of.q.stride, tile.rows}, dim, {keys + tile.first_key * dim, dim, n}, n, false},
        weights);
    WeighScores(shape, tile, weights, nullptr);
    cpu::F32Products({{weights, n, tile.rows},
                      n,
                      {values + tile.first_key * cpu::kPanelColumns, tokens, dim},
                      mixed.stride,
                      /*add=*/false},
                     mixed.At(row, part.head));
  }
}

struct Gradients {
  Heads q, k, v;  // of k and v a sum for each head of q
};

// Those of a part, `g` those of what it mixed; of k and v they are added.
void Follow(const AttentionShape& shape, const Operands& of, const PackedHeads& rows_of_keys, const Heads& g,
            const AttentionPart& part, const Gradients& to) {
  const int64_t begin = shape.starts[part.sequence], tokens = shape.tokens_of(part.sequence), dim = shape.dim;
  const int64_t head = part.head, kv_head = head / shape.group(), tile_floats = kTileRows * tokens;
  const float* const keys = of.keys.Of(part.sequence, kv_head);
  const float* const values = of.values.Of(part.sequence, kv_head);
  const float* const key_rows = rows_of_keys.Of(part.sequence, kv_head);
  ScratchParts scratch(4 * tile_floats + cpu::F32WeightElements(dim, kTileRows));
  float* const weights = scratch.Take(tile_floats);
  float* const d_weights = scratch.Take(tile_floats);
  float* const room = scratch.Take(tile_floats);
  float* const capped = shape.softcap > 0 ? room : nullptr;
  float* const transposed = scratch.Take(tile_floats);
  float* const rows = scratch.Take(cpu::F32WeightElements(dim, kTileRows));
  // to [keys, dim] += of_tile^T from, `of_tile` [rows, keys]
  const auto add_transposed = [&](const AttentionTile& tile, const float* of_tile, const Heads& from,
                                  const Heads& sums) {
    cpu::TransposeFloats({of_tile, tile.keys(), tile.rows, tile.keys(), tile.rows}, transposed);
    cpu::TransposeF32Rows({from.At(begin + tile.first, head), from.stride, tile.rows, 0, dim}, rows);
    cpu::F32Products(
        {{transposed, tile.rows, tile.keys()}, tile.rows, {rows, tile.rows, dim}, sums.stride, /*add=*/true},
        sums.At(begin + tile.first_key, head));
  };
  for (int64_t first = part.first; first < part.end; first += kTileRows) {
    const AttentionTile tile = TileAt(shape, first, tokens);
    const int64_t row = begin + first, n = tile.keys();
    cpu::F32Products(
        {{of.q.At(row, head), of.q.stride, tile.rows}, dim, {keys + tile.first_key * dim, dim, n}, n, false}, weights);
    WeighScores(shape, tile, weights, capped);
    cpu::F32Products({{g.At(row, head), g.stride, tile.rows}, dim, {values + tile.first_key * dim, dim, n}, n, false},
                     d_weights);
    add_transposed(tile, weights, g, to.v);
    FollowSoftmax(shape, tile, weights, capped, d_weights);
    cpu::F32Products({{d_weights, n, tile.rows},
                      n,
                      {key_rows + tile.first_key * cpu::kPanelColumns, tokens, dim},
                      to.q.stride,
                      /*add=*/false},
                     to.q.At(row, head));
    add_transposed(tile, d_weights, of.q, to.k);
  }
}

template <typename Fn>
void ForParts(const AttentionShape& shape, int64_t products, const Fn& fn) {
  for (const std::vector<AttentionPart>& wave : WavesOf(shape, products)) {
    TasksInPieces(
        std::ssize(wave), [&](int64_t part) { return wave[part].products; }, [&](int64_t part) { fn(wave[part]); });
  }
}

// x [T, heads, dim] -> sums [T, kv_heads, dim] of the heads that share one.
at::Tensor OfKvHeads(const AttentionShape& shape, const at::Tensor& x) {
  if (shape.group() == 1) return x;
  return x.view({x.size(0), shape.kv_heads, shape.group(), shape.dim}).sum(2);
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionShape& shape) {
    at::Tensor mixed = at::empty({q.size(0), shape.heads * shape.dim}, q.options());
    const Heads to = {mixed.mutable_data_ptr<float>(), mixed.size(1), shape.dim};
    const Operands of = {HeadsOf(q), PackedHeads::Columns(shape, k), PackedHeads::Rows(shape, v)};
    ForParts(shape, kForwardProducts, [&](const AttentionPart& part) { Attend(shape, of, part, to); });
    context->save_for_backward({q, k, v});
    shape.Save(context);
    return mixed;
  }

  static variable_list backward(AutogradContext* context, const variable_list& of_mixed) {
    const AttentionShape shape = AttentionShape::Saved(context);
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const at::Tensor g = of_mixed[0].contiguous().view({q.size(0), shape.heads, shape.dim});
    const Operands of = {HeadsOf(q), PackedHeads::Columns(shape, k), PackedHeads::Columns(shape, v)};
    const PackedHeads rows_of_keys = PackedHeads::Rows(shape, k);
    const at::Tensor dq = at::empty(g.sizes(), q.options());
    const at::Tensor dk = at::zeros(g.sizes(), k.options()), dv = at::zeros(g.sizes(), v.options());
    const Gradients to = {HeadsOf(dq), HeadsOf(dk), HeadsOf(dv)};
    ForParts(shape, kBackwardProducts,
             [&](const AttentionPart& part) { Follow(shape, of, rows_of_keys, HeadsOf(g), part, to); });
    return {dq, OfKvHeads(shape, dk), OfKvHeads(shape, dv), at::Tensor()};
  }
};

}  // namespace

at::Tensor HeadAttention(const SequenceAttentionArgs& args) {
  return AttentionFunction::apply(WithHeadsTogether(args.q), WithHeadsTogether(args.k), WithHeadsTogether(args.v),
                                  AttentionShape::Of(args));
}

}  // namespace lorad
