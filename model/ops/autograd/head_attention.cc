#include "model/ops/autograd/head_attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include <ATen/ops/empty.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/zeros.h>

#include "model/ops/cpu/f32_panels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/row_kernels.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kTileRows = 64;  // queries of one head at a time
constexpr int64_t kProductsOfPiece = int64_t{1} << 26;

// [T, heads, D], of each row the heads side by side.
struct Heads {
  float* data;
  int64_t stride;  // from row to row
  int64_t dim;
  float* At(int64_t row, int64_t head) const { return data + row * stride + head * dim; }
};

bool HeadsLieTogether(const at::Tensor& x) { return x.stride(2) == 1 && x.stride(1) == x.size(2); }

// Of a tensor that is only read, too: LibTorch has no const ones.
Heads HeadsOf(const at::Tensor& x) { return {const_cast<float*>(x.const_data_ptr<float>()), x.stride(0), x.size(2)}; }

struct Shape {
  int64_t heads;
  int64_t kv_heads;
  int64_t dim;
  int64_t window_tokens;
  float scale;
  float softcap;
  std::vector<int64_t> starts;

  int64_t group() const { return heads / kv_heads; }
};

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

// rows [count, dim] -> their panels, [ceil(count / 16)][dim][16]: what scores are multiplied from.
void PackTransposed(const Heads& of, int64_t row, int64_t head, int64_t count, float* panels) {
  cpu::PackF32Panels(of.At(row, head), of.stride, count, of.dim, panels);
}

// The same rows -> panels of 16 coordinates each, [ceil(dim / 16)][count][16].
void PackRowsOf(const Heads& of, int64_t row, int64_t head, int64_t count, float* panels) {
  cpu::TransposeF32Rows({of.At(row, head), of.stride, count, 0, of.dim}, panels);
}

// Queries [first, first + rows) of one sequence and the keys [first_key, end_key) that any of them sees.
struct Tile {
  int64_t first;
  int64_t rows;
  int64_t first_key;  // a multiple of 16
  int64_t end_key;
  int64_t keys() const { return end_key - first_key; }
};

Tile TileAt(const Shape& shape, int64_t first, int64_t tokens) {
  const int64_t rows = std::min(kTileRows, tokens - first);
  const int64_t seen = shape.window_tokens == 0 ? 0 : std::max<int64_t>(0, first - shape.window_tokens + 1);
  return {first, rows, seen / cpu::kPanelColumns * cpu::kPanelColumns, first + rows};
}

// Scores [rows, keys] of a tile -> softmax weights, zeros where a query does not see. `capped` [rows, keys] gets the
// scores behind the softcap; null where there is none.
void WeighScores(const Shape& shape, const Tile& tile, float* scores, float* capped) {
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
void FollowSoftmax(const Shape& shape, const Tile& tile, const float* weights, const float* capped, float* d_weights) {
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

void Attend(const Shape& shape, const Heads& q, const Heads& k, const Heads& v, int64_t begin, int64_t tokens,
            int64_t head, const Heads& mixed) {
  const int64_t of_kv = head / shape.group(), dim = shape.dim;
  ScratchParts scratch(cpu::F32WeightElements(tokens, dim) + cpu::F32WeightElements(dim, tokens) + kTileRows * tokens);
  float* const keys = scratch.Take(cpu::F32WeightElements(tokens, dim));
  float* const values = scratch.Take(cpu::F32WeightElements(dim, tokens));
  float* const weights = scratch.Take(kTileRows * tokens);
  PackTransposed(k, begin, of_kv, tokens, keys);
  PackRowsOf(v, begin, of_kv, tokens, values);
  for (int64_t first = 0; first < tokens; first += kTileRows) {
    const Tile tile = TileAt(shape, first, tokens);
    cpu::F32Products({{q.At(begin + first, head), q.stride, tile.rows},
                      dim,
                      {keys + tile.first_key * dim, dim, tile.keys()},
                      tile.keys(),
                      /*add=*/false},
                     weights);
    WeighScores(shape, tile, weights, nullptr);
    cpu::F32Products({{weights, tile.keys(), tile.rows},
                      tile.keys(),
                      {values + tile.first_key * cpu::kPanelColumns, tokens, dim},
                      mixed.stride,
                      /*add=*/false},
                     mixed.At(begin + first, head));
  }
}

struct Gradients {
  Heads q, k, v;
};

// The gradients of one kv head of one sequence, of all its query heads; those of k and v hold zeros.
void Follow(const Shape& shape, const Heads& q, const Heads& k, const Heads& v, const Heads& g, int64_t begin,
            int64_t tokens, int64_t of_kv, const Gradients& to) {
  const int64_t dim = shape.dim, tile_floats = kTileRows * tokens;
  ScratchParts scratch(2 * cpu::F32WeightElements(tokens, dim) + cpu::F32WeightElements(dim, tokens) + 4 * tile_floats +
                       cpu::F32WeightElements(dim, kTileRows));
  float* const keys = scratch.Take(cpu::F32WeightElements(tokens, dim));
  float* const values = scratch.Take(cpu::F32WeightElements(tokens, dim));
  float* const key_rows = scratch.Take(cpu::F32WeightElements(dim, tokens));
  float* const weights = scratch.Take(tile_floats);
  float* const d_weights = scratch.Take(tile_floats);
  float* const room = scratch.Take(tile_floats);
  float* const capped = shape.softcap > 0 ? room : nullptr;
  float* const transposed = scratch.Take(tile_floats);
  float* const rows = scratch.Take(cpu::F32WeightElements(dim, kTileRows));
  PackTransposed(k, begin, of_kv, tokens, keys);
  PackTransposed(v, begin, of_kv, tokens, values);
  PackRowsOf(k, begin, of_kv, tokens, key_rows);
  // to [keys, dim] += of_tile^T from, `of_tile` [rows, keys]
  const auto add_transposed = [&](const Tile& tile, const float* of_tile, const Heads& from, int64_t head,
                                  const Heads& sums) {
    cpu::TransposeFloats({of_tile, tile.keys(), tile.rows, tile.keys(), tile.rows}, transposed);
    PackRowsOf(from, begin + tile.first, head, tile.rows, rows);
    cpu::F32Products(
        {{transposed, tile.rows, tile.keys()}, tile.rows, {rows, tile.rows, dim}, sums.stride, /*add=*/true},
        sums.At(begin + tile.first_key, of_kv));
  };
  for (int64_t head = of_kv * shape.group(); head < (of_kv + 1) * shape.group(); ++head) {
    for (int64_t first = 0; first < tokens; first += kTileRows) {
      const Tile tile = TileAt(shape, first, tokens);
      const int64_t row = begin + first, n = tile.keys();
      cpu::F32Products(
          {{q.At(row, head), q.stride, tile.rows}, dim, {keys + tile.first_key * dim, dim, n}, n, /*add=*/false},
          weights);
      WeighScores(shape, tile, weights, capped);
      cpu::F32Products(
          {{g.At(row, head), g.stride, tile.rows}, dim, {values + tile.first_key * dim, dim, n}, n, /*add=*/false},
          d_weights);
      add_transposed(tile, weights, g, head, to.v);
      FollowSoftmax(shape, tile, weights, capped, d_weights);
      cpu::F32Products({{d_weights, n, tile.rows},
                        n,
                        {key_rows + tile.first_key * cpu::kPanelColumns, tokens, dim},
                        to.q.stride,
                        /*add=*/false},
                       to.q.At(row, head));
      add_transposed(tile, d_weights, q, head, to.k);
    }
  }
}

void Save(const Shape& shape, AutogradContext* context) {
  context->saved_data["heads"] = shape.heads;
  context->saved_data["kv_heads"] = shape.kv_heads;
  context->saved_data["dim"] = shape.dim;
  context->saved_data["window_tokens"] = shape.window_tokens;
  context->saved_data["scale"] = static_cast<double>(shape.scale);
  context->saved_data["softcap"] = static_cast<double>(shape.softcap);
  context->saved_data["starts"] = shape.starts;
}

Shape SavedShape(AutogradContext* context) {
  auto& saved = context->saved_data;
  return {.heads = saved["heads"].toInt(),
          .kv_heads = saved["kv_heads"].toInt(),
          .dim = saved["dim"].toInt(),
          .window_tokens = saved["window_tokens"].toInt(),
          .scale = static_cast<float>(saved["scale"].toDouble()),
          .softcap = static_cast<float>(saved["softcap"].toDouble()),
          .starts = saved["starts"].toIntVector()};
}

// fn(begin, tokens, head) for every sequence and head, shared among threads; short sequences are one piece together.
template <typename Fn>
void ForHeads(const Shape& shape, int64_t heads, const Fn& fn) {
  const auto tokens_of = [&](int64_t sequence) { return shape.starts[sequence + 1] - shape.starts[sequence]; };
  const int64_t sequences = std::ssize(shape.starts) - 1;
  for (int64_t first = 0, end = 0; first < sequences; first = end) {
    int64_t products = 0;
    for (; end < sequences && products < kProductsOfPiece; ++end) {
      products += 2 * tokens_of(end) * tokens_of(end) * shape.heads * shape.dim;
    }
    BeginPiece(products);
    cpu::ParallelTasks((end - first) * heads, [&](int64_t task) {
      const int64_t sequence = first + task / heads;
      if (tokens_of(sequence) > 0) fn(shape.starts[sequence], tokens_of(sequence), task % heads);
    });
  }
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const Shape& shape) {
    at::Tensor mixed = at::empty({q.size(0), shape.heads * shape.dim}, q.options());
    const Heads to = {mixed.mutable_data_ptr<float>(), mixed.size(1), shape.dim};
    ForHeads(shape, shape.heads, [&](int64_t begin, int64_t tokens, int64_t head) {
      Attend(shape, HeadsOf(q), HeadsOf(k), HeadsOf(v), begin, tokens, head, to);
    });
    context->save_for_backward({q, k, v});
    Save(shape, context);
    return mixed;
  }

  static variable_list backward(AutogradContext* context, const variable_list& of_mixed) {
    const Shape shape = SavedShape(context);
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const at::Tensor g = of_mixed[0].contiguous().view({q.size(0), shape.heads, shape.dim});
    const at::Tensor dq = at::empty(q.sizes(), q.options());
    const at::Tensor dk = at::zeros(k.sizes(), k.options()), dv = at::zeros(v.sizes(), v.options());
    const Gradients to = {HeadsOf(dq), HeadsOf(dk), HeadsOf(dv)};
    ForHeads(shape, shape.kv_heads, [&](int64_t begin, int64_t tokens, int64_t head) {
      Follow(shape, HeadsOf(q), HeadsOf(k), HeadsOf(v), HeadsOf(g), begin, tokens, head, to);
    });
    return {dq, dk, dv, at::Tensor()};
  }
};

struct RotateFunction : torch::autograd::Function<RotateFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->saved_data["cos"] = cos;
    context->saved_data["sin"] = sin;
    return Rotate(x, cos, sin);
  }

  // The same by the opposite angle.
  static variable_list backward(AutogradContext* context, const variable_list& g) {
    const at::Tensor cos = context->saved_data["cos"].toTensor(), sin = context->saved_data["sin"].toTensor();
    return {Rotate(g[0].contiguous(), cos, at::neg(sin)), at::Tensor(), at::Tensor()};
  }

  static at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    constexpr int64_t kNumbersPerRange = 1 << 13;
    at::Tensor y = at::empty(x.sizes(), x.options());
    const int64_t heads = x.size(1), dim = x.size(2), half = cos.size(1);
    const Heads from = HeadsOf(x), to = HeadsOf(y);
    const float* const of_cos = cos.const_data_ptr<float>();
    const float* const of_sin = sin.const_data_ptr<float>();
    cpu::ParallelFor(x.size(0), kNumbersPerRange / (heads * dim) + 1, [&](int64_t row, int64_t end) {
      for (; row < end; ++row) {
        for (int64_t h = 0; h < heads; ++h) {
          cpu::RotateRow(from.At(row, h), of_cos + row * half, of_sin + row * half, half, dim, to.At(row, h));
        }
      }
    });
    return y;
  }
};

at::Tensor WithHeadsTogether(const at::Tensor& x) { return HeadsLieTogether(x) ? x : x.contiguous(); }

}  // namespace

at::Tensor HeadAttention(const SequenceAttentionArgs& args) {
  const Shape shape = {.heads = args.q.size(1),
                       .kv_heads = args.k.size(1),
                       .dim = args.q.size(2),
                       .window_tokens = args.window_tokens,
                       .scale = static_cast<float>(args.scale),
                       .softcap = static_cast<float>(args.softcap),
                       .starts = {args.starts.begin(), args.starts.end()}};
  return AttentionFunction::apply(WithHeadsTogether(args.q), WithHeadsTogether(args.k), WithHeadsTogether(args.v),
                                  shape);
}

at::Tensor RotateRowsOfHeads(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  return RotateFunction::apply(WithHeadsTogether(x), cos.contiguous(), sin.contiguous());
}

}  // namespace lorad
