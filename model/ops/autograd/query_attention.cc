#include "model/ops/autograd/query_attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_softmax.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/le.h>
#include <ATen/ops/zeros.h>

#include "model/ops/autograd/attention_shape.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Of a piece: 32 MiB. Several such fit what a device's caches hold, or nearly; with fewer its launches take longer than
// its products.
constexpr int64_t kMostScores = int64_t{1} << 23;

// Of a query, a key and a coordinate.
constexpr int64_t kForwardProducts = 2;
constexpr int64_t kBackwardProducts = 5;

// Queries [first, first + rows) of a sequence, and the keys from first_key on that any of them sees.
struct QueryPiece {
  int64_t first;
  int64_t rows;
  int64_t first_key;
  int64_t keys() const { return first + rows - first_key; }
};

std::vector<QueryPiece> PiecesOf(const AttentionShape& shape, int64_t tokens) {
  std::vector<QueryPiece> pieces;
  for (int64_t first = 0; first < tokens; first += pieces.back().rows) {
    const int64_t first_key = shape.window_tokens == 0 ? 0 : std::max<int64_t>(0, first - shape.window_tokens + 1);
    QueryPiece piece = {first, tokens - first, first_key};
    while (piece.rows > 1 && shape.heads * piece.rows * piece.keys() > kMostScores) piece.rows = (piece.rows + 1) / 2;
    pieces.push_back(piece);
  }
  return pieces;
}

// A place for the scores of each piece of a sequence in turn.
class ScoreRoom final {
 public:
  ScoreRoom(const AttentionShape& shape, const std::vector<QueryPiece>& pieces, at::Device device) : shape_(shape) {
    int64_t most = 0;
    for (const QueryPiece& piece : pieces) most = std::max(most, shape.heads * piece.rows * piece.keys());
    floats_ = at::empty({most}, at::TensorOptions().dtype(at::kFloat).device(device));
  }
  // [Hkv, group * rows, keys], with any content
  at::Tensor For(const QueryPiece& piece) const {
    return floats_.narrow(0, 0, shape_.heads * piece.rows * piece.keys())
        .view({shape_.kv_heads, shape_.group() * piece.rows, piece.keys()});
  }

 private:
  const AttentionShape& shape_;
  at::Tensor floats_;
};

// One sequence: x [t, heads, D] of q or of a gradient, k and v [t, Hkv, D].
class Sequence final {
 public:
  Sequence(const AttentionShape& shape, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)
      : shape_(shape),
        q_(q),
        keys_(k.to(at::kFloat).permute({1, 0, 2})),
        values_(v.to(at::kFloat).permute({1, 0, 2})),
        pieces_(PiecesOf(shape, q.size(0))) {}

  // mixed [t, Hq, D]
  void Attend(const at::Tensor& mixed) const {
    const ScoreRoom scores = Room(), weights = Room();
    for (const QueryPiece& piece : pieces_) {
      BeginPiece(kForwardProducts * Products(piece));
      const at::Tensor w = Weights(piece, Queries(piece), Hidden(piece), scores.For(piece), weights.For(piece));
      Put(piece, at::bmm(w, Seen(values_, piece)), mixed);
    }
  }

  // g of what was mixed, dq [t, Hq, D]; dk, dv [t, Hkv, D]
  void Follow(const at::Tensor& g, const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv) const {
    const ScoreRoom scores = Room(), weights = Room(), d_weights = Room();
    const ScoreRoom d_scores = shape_.softcap > 0 ? Room() : scores;  // without one nobody wants the scores again
    const at::Tensor dk_sums = at::zeros(keys_.sizes(), keys_.options());
    const at::Tensor dv_sums = at::zeros(values_.sizes(), values_.options());
    for (const QueryPiece& piece : pieces_) {
      BeginPiece(kBackwardProducts * Products(piece));
      const at::Tensor queries = Queries(piece), hidden = Hidden(piece), of_mixed = HeadRows(g, piece);
      at::Tensor s = scores.For(piece), dw = d_weights.For(piece), ds = d_scores.For(piece);
      const at::Tensor w = Weights(piece, queries, hidden, s, weights.For(piece));
      Seen(dv_sums, piece).baddbmm_(w.transpose(1, 2), of_mixed);
      at::bmm_out(dw, of_mixed, Seen(values_, piece).transpose(1, 2));
      at::_softmax_backward_data_out(ds, dw, w, -1, at::kFloat);
      if (shape_.softcap > 0) {  // its derivative is 1 - (s / c)^2
        ByHead(piece, s).masked_fill_(hidden, 0.0);
        ds.mul_(s.div_(shape_.softcap).square_().neg_().add_(1.0));
      }
      Put(piece, at::bmm(ds, Seen(keys_, piece)).mul_(shape_.scale), dq);
      Seen(dk_sums, piece).baddbmm_(ds.transpose(1, 2), queries);
    }
    at::Tensor(dk).copy_(dk_sums.permute({1, 0, 2}));
    at::Tensor(dv).copy_(dv_sums.permute({1, 0, 2}));
  }

 private:
  ScoreRoom Room() const { return ScoreRoom(shape_, pieces_, q_.device()); }
  int64_t Products(const QueryPiece& piece) const { return shape_.heads * piece.rows * piece.keys() * shape_.dim; }

  // x [t, Hq, D] -> [Hkv, group * rows, D] f32: the heads of q that share a kv head lie one below the other, so that k
  // and v are not repeated.
  at::Tensor HeadRows(const at::Tensor& x, const QueryPiece& piece) const {
    return x.narrow(0, piece.first, piece.rows)
        .to(at::kFloat)
        .reshape({piece.rows, shape_.kv_heads, shape_.group(), shape_.dim})
        .permute({1, 2, 0, 3})
        .reshape({shape_.kv_heads, shape_.group() * piece.rows, shape_.dim});
  }
  at::Tensor Queries(const QueryPiece& piece) const { return HeadRows(q_, piece).mul(shape_.scale); }
  // rows [Hkv, group * rows, D] -> their places in x [t, Hq, D]
  void Put(const QueryPiece& piece, const at::Tensor& rows, const at::Tensor& x) const {
    x.narrow(0, piece.first, piece.rows)
        .view({piece.rows, shape_.kv_heads, shape_.group(), shape_.dim})
        .copy_(rows.view({shape_.kv_heads, shape_.group(), piece.rows, shape_.dim}).permute({2, 0, 1, 3}));
  }
  // x [Hkv, t, D] -> [Hkv, keys, D]
  static at::Tensor Seen(const at::Tensor& x, const QueryPiece& piece) {
    return x.narrow(1, piece.first_key, piece.keys());
  }
  // [Hkv, group * rows, keys] -> [Hq, rows, keys]
  at::Tensor ByHead(const QueryPiece& piece, const at::Tensor& scores) const {
    return scores.view({shape_.heads, piece.rows, piece.keys()});
  }

  // [rows, keys] bool: which keys a query does not see.
  at::Tensor Hidden(const QueryPiece& piece) const {
    const at::TensorOptions options = at::TensorOptions().dtype(at::kLong).device(q_.device());
    const int64_t end = piece.first + piece.rows;
    const at::Tensor queries = at::arange(piece.first, end, options).unsqueeze(1);
    const at::Tensor keys = at::arange(piece.first_key, end, options).unsqueeze(0);
    at::Tensor hidden = at::gt(keys, queries);
    if (shape_.window_tokens > 0) hidden.logical_or_(at::le(keys, queries - shape_.window_tokens));
    return hidden;
  }

  // The softmax weights, in `weights`; `scores` has what they are made of. Both [Hkv, group * rows, keys].
  at::Tensor Weights(const QueryPiece& piece, const at::Tensor& queries, const at::Tensor& hidden, at::Tensor scores,
                     at::Tensor weights) const {
    at::bmm_out(scores, queries, Seen(keys_, piece).transpose(1, 2));
    if (shape_.softcap > 0) scores.div_(shape_.softcap).tanh_().mul_(shape_.softcap);
    ByHead(piece, scores).masked_fill_(hidden, -std::numeric_limits<float>::infinity());
    at::_softmax_out(weights, scores, -1, /*half_to_float=*/false);
    return weights;
  }

  const AttentionShape& shape_;
  const at::Tensor q_;
  const at::Tensor keys_;    // [Hkv, t, D] f32
  const at::Tensor values_;  // the same
  const std::vector<QueryPiece> pieces_;
};

// fn(first row, tokens) of each sequence.
template <typename Fn>
void ForSequences(const AttentionShape& shape, const Fn& fn) {
  for (int64_t s = 0; s < shape.sequences(); ++s) {
    if (shape.tokens_of(s) > 0) fn(shape.starts[s], shape.tokens_of(s));
  }
}

struct QueryAttentionFunction : torch::autograd::Function<QueryAttentionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionShape& shape) {
    const at::Tensor mixed = at::empty({q.size(0), shape.heads * shape.dim}, q.options());
    const at::Tensor by_head = mixed.view({q.size(0), shape.heads, shape.dim});
    ForSequences(shape, [&](int64_t first, int64_t tokens) {
      const Sequence sequence(shape, q.narrow(0, first, tokens), k.narrow(0, first, tokens),
                              v.narrow(0, first, tokens));
      sequence.Attend(by_head.narrow(0, first, tokens));
    });
    context->save_for_backward({q, k, v});
    shape.Save(context);
    return mixed;
  }

  static variable_list backward(AutogradContext* context, const variable_list& of_mixed) {
    const AttentionShape shape = AttentionShape::Saved(context);
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const at::Tensor g = of_mixed[0].reshape({q.size(0), shape.heads, shape.dim});
    const at::Tensor dq = at::empty(q.sizes(), q.options());
    const at::Tensor dk = at::empty(k.sizes(), k.options()), dv = at::empty(v.sizes(), v.options());
    ForSequences(shape, [&](int64_t first, int64_t tokens) {
      const auto own = [&](const at::Tensor& x) { return x.narrow(0, first, tokens); };
      Sequence(shape, own(q), own(k), own(v)).Follow(own(g), own(dq), own(dk), own(dv));
    });
    return {dq, dk, dv, at::Tensor()};
  }
};

}  // namespace

at::Tensor QueryAttention(const SequenceAttentionArgs& args) {
  return QueryAttentionFunction::apply(args.q, args.k, args.v, AttentionShape::Of(args));
}

int64_t ScoreBytes(int64_t heads, int64_t tokens, bool has_softcap) {
  const int64_t most = std::max(kMostScores, heads * tokens);  // a query at least
  const double scores = static_cast<double>(heads) * static_cast<double>(tokens) * static_cast<double>(tokens);
  const int64_t at_once = scores < static_cast<double>(most) ? heads * tokens * tokens : most;
  const int64_t hidden = at_once / heads;  // a byte each, and another with a window
  return (has_softcap ? 4 : 3) * at_once * static_cast<int64_t>(sizeof(float)) + 2 * hidden;
}

}  // namespace lorad
