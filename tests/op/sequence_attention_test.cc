#include "model/ops/autograd/sequence_attention.h"

#include <ATen/TensorOperators.h>

#include <algorithm>

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

// f64 goes through LibTorch's operators, f32 through our kernels.
void ExpectEqualsF64(const Case& c, const std::vector<int32_t>& starts) {
  Numbers numbers(51);
  const int64_t tokens = starts.back(), wide = (c.heads + 2 * c.kv_heads) * c.dim;
  // As in a layer: rows of q, k and v side by side.
  const at::Tensor qkv = Random(at::kFloat, {tokens, wide}, numbers, 2.0f).set_requires_grad(true);
  const at::Tensor cos = Random(at::kFloat, {tokens, c.dim / 2 - 1}, numbers);
  const at::Tensor sin = Random(at::kFloat, {tokens, c.dim / 2 - 1}, numbers);
  const at::Tensor g = Random(at::kFloat, {tokens, c.heads * c.dim}, numbers);
  const auto attended = [&](const at::Tensor& rows) {
    const auto heads = [&](int64_t first, int64_t count) {
      return rows.narrow(1, first * c.dim, count * c.dim).reshape({tokens, count, c.dim});
    };
    const at::ScalarType dtype = rows.scalar_type();
    const at::Tensor q = RotateHeads(heads(0, c.heads), cos.to(dtype), sin.to(dtype));
    const at::Tensor k = RotateHeads(heads(c.heads, c.kv_heads), cos.to(dtype), sin.to(dtype));
    const at::Tensor v = heads(c.heads + c.kv_heads, c.kv_heads);
    return SequenceAttention({q, k, v, starts, c.window, 0.3, c.softcap});
  };
  const at::Tensor in_f64 = qkv.detach().to(at::kDouble).set_requires_grad(true);
  const at::Tensor expected = attended(in_f64), mixed = attended(qkv);
  ExpectNear(mixed, expected, "values");
  (expected * g.to(at::kDouble)).sum().backward();
  (mixed * g).sum().backward();
  ExpectNear(qkv.grad(), in_f64.grad(), "gradients");
}

TEST_P(SequenceAttentionTest, F32ValuesAndGradientsEqualLibTorchsInF64) {
  ExpectEqualsF64(GetParam(), {0, 5, 6, 6, 139});
}

// Parts of one sequence come in several waves; their gradients of k and v add up.
TEST(LongSequenceTest, HasTheValuesAndGradientsToo) {
  cpu::SetComputeThreads(2);
  ExpectEqualsF64({8, 2, 64, 0, 0.0}, {0, 40, 740});
  ExpectEqualsF64({8, 4, 64, 300, 5.0}, {0, 700});
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
