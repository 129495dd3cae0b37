#include "model/ops/autograd/sequence_attention.h"

#include <ATen/TensorOperators.h>

#include "model/ops/cpu/parallel.h"
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
TEST_P(SequenceAttentionTest, F32ValuesAndGradientsEqualLibTorchsInF64) {
  const Case c = GetParam();
  Numbers numbers(51);
  const std::vector<int32_t> starts = {0, 5, 6, 6, 139};
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

INSTANTIATE_TEST_SUITE_P(Cpu, SequenceAttentionTest,
                         testing::Values(Case{4, 2, 16, 0, 0.0}, Case{3, 3, 6, 0, 0.0}, Case{6, 2, 20, 37, 0.0},
                                         Case{2, 1, 64, 7, 5.0}));

}  // namespace
}  // namespace lorad
