#include "model/ops/autograd/sequence_attention.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>

#include "model/ops/autograd/query_attention.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/pieces.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

struct Case {
  int64_t heads, kv_heads, dim, window;
  double softcap;
};

class SequenceAttentionTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
};

void ExpectNear(const at::Tensor& value, const at::Tensor& expected, const char* what) {
  ASSERT_TRUE(value.defined()) << what;
  EXPECT_TRUE(value.detach().to(at::kDouble).allclose(expected.detach(), 1e-4, 2e-5))
      << what << ": " << (value.detach().to(at::kDouble) - expected.detach()).abs().max().item<double>();
}

// All scores of a sequence at once, in the type of q and by LibTorch's own gradients.
at::Tensor PlainAttention(const SequenceAttentionArgs& args) {
  const int64_t group = args.q.size(1) / args.k.size(1);
  std::vector<at::Tensor> mixed;
  for (size_t s = 0; s + 1 < args.starts.size(); ++s) {
    const int64_t first = args.starts[s], tokens = args.starts[s + 1] - first;
    if (tokens == 0) continue;
    const auto by_head = [&](const at::Tensor& x, int64_t times) {
      return x.narrow(0, first, tokens).permute({1, 0, 2}).repeat_interleave(times, 0);
    };
    at::Tensor scores = at::matmul(by_head(args.q, 1), by_head(args.k, group).transpose(1, 2)) * args.scale;
    if (args.softcap > 0) scores = at::tanh(scores / args.softcap) * args.softcap;
    const at::Tensor at = at::arange(tokens), way = at.unsqueeze(1) - at.unsqueeze(0);
    const at::Tensor hidden = args.window_tokens == 0 ? way < 0 : (way < 0).logical_or(way >= args.window_tokens);
    const at::Tensor weights = at::softmax(scores.masked_fill(hidden, -INFINITY), -1);
    mixed.push_back(at::matmul(weights, by_head(args.v, group)).permute({1, 0, 2}).reshape({tokens, -1}));
  }
  return at::cat(mixed, 0);
}

using Attention = at::Tensor(const SequenceAttentionArgs&);

// f32 goes through our kernels, f64 as what lies on a device, in pieces of query rows.
void ExpectEqualsPlain(const Case& c, const std::vector<int32_t>& starts) {
  Numbers numbers(51);
  const int64_t tokens = starts.back(), wide = (c.heads + 2 * c.kv_heads) * c.dim;
  // As in a layer: rows of q, k and v side by side.
  const at::Tensor qkv = Random(at::kFloat, {tokens, wide}, numbers, 2.0f).set_requires_grad(true);
  const at::Tensor cos = Random(at::kFloat, {tokens, c.dim / 2 - 1}, numbers);
  const at::Tensor sin = Random(at::kFloat, {tokens, c.dim / 2 - 1}, numbers);
  const at::Tensor g = Random(at::kFloat, {tokens, c.heads * c.dim}, numbers);
  const auto attended = [&](const at::Tensor& rows, Attention* attention) {
    const auto heads = [&](int64_t first, int64_t count) {
      return rows.narrow(1, first * c.dim, count * c.dim).reshape({tokens, count, c.dim});
    };
    const at::ScalarType dtype = rows.scalar_type();
    const at::Tensor q = RotateHeads(heads(0, c.heads), cos.to(dtype), sin.to(dtype));
    const at::Tensor k = RotateHeads(heads(c.heads, c.kv_heads), cos.to(dtype), sin.to(dtype));
    const at::Tensor v = heads(c.heads + c.kv_heads, c.kv_heads);
    const at::Tensor mixed = attention({q, k, v, starts, c.window, 0.3, c.softcap});
    (mixed * g.to(dtype)).sum().backward();
    return mixed;
  };
  const auto in_f64 = [&] { return qkv.detach().to(at::kDouble).set_requires_grad(true); };
  const at::Tensor of_plain = in_f64(), of_pieces = in_f64();
  const at::Tensor expected = attended(of_plain, &PlainAttention);
  ExpectNear(attended(qkv, &SequenceAttention), expected, "values");
  ExpectNear(qkv.grad(), of_plain.grad(), "gradients");
  ExpectNear(attended(of_pieces, &SequenceAttention), expected, "values in pieces");
  ExpectNear(of_pieces.grad(), of_plain.grad(), "gradients in pieces");
}

TEST_P(SequenceAttentionTest, ValuesAndGradientsEqualLibTorchsInF64) {
  ExpectEqualsPlain(GetParam(), {0, 5, 6, 6, 139});
}

// Parts of one sequence come in several waves, or several pieces; their gradients of k and v add up.
TEST(LongSequenceTest, HasTheValuesAndGradientsToo) {
  cpu::SetComputeThreads(2);
  ExpectEqualsPlain({8, 2, 64, 0, 0.0}, {0, 40, 1100});
  ExpectEqualsPlain({8, 4, 64, 300, 5.0}, {0, 700});
  ExpectEqualsPlain({16, 4, 6, 300, 5.0}, {0, 800});
}

TEST(LongSequenceTest, ScoresOfAnyLengthTakeNoMoreThanAPiece) {
  EXPECT_EQ(ScoreBytes(/*heads=*/4, /*tokens=*/10, /*has_softcap=*/false), 3 * 4 * 400 + 2 * 100);
  const int64_t most = ScoreBytes(32, 4096, false);
  EXPECT_LE(most, int64_t{100} << 20);
  EXPECT_EQ(ScoreBytes(32, 131072, false), most);
  EXPECT_GT(ScoreBytes(32, 131072, /*has_softcap=*/true), most);
}

TEST(LongSequenceTest, IsCutInPieces) {
  constexpr int64_t kTokens = 1000, kHeads = 8, kDim = 64;
  cpu::SetComputeThreads(2);
  Numbers numbers(52);
  const at::Tensor x = Random(at::kFloat, {kTokens, kHeads, kDim}, numbers).set_requires_grad(true);
  const std::vector<int32_t> starts = {0, kTokens};
  int64_t pieces = 0, sum = 0;
  const PieceListener listener([&](int64_t products) {
    EXPECT_LE(products, kPieceProducts);
    ++pieces;
    sum += products;
  });
  SequenceAttention({x, x, x, starts, /*window_tokens=*/0, 1.0, /*softcap=*/0.0}).sum().backward();
  EXPECT_GE(sum, 7 * kTokens * kTokens / 2 * kHeads * kDim);
  EXPECT_LE(pieces, 5 * sum / kPieceProducts);
}

INSTANTIATE_TEST_SUITE_P(Cpu, SequenceAttentionTest,
                         testing::Values(Case{4, 2, 16, 0, 0.0}, Case{3, 3, 6, 0, 0.0}, Case{6, 2, 20, 37, 0.0},
                                         Case{2, 1, 64, 7, 5.0}));

}  // namespace
}  // namespace lorad
