#include "model/ops/autograd/log_probability.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>

#include "model/ops/cpu/parallel.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

class LogProbabilityTest : public testing::Test {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
};

TEST_F(LogProbabilityTest, ValuesAndGradientsEqualLogSoftmax) {
  Numbers numbers(41);
  for (const int64_t n : {1, 7, 100, 5003}) {
    const int64_t rows = 5;
    const at::Tensor leaf = Random(at::kFloat, {rows, n}, numbers, 20.0f).set_requires_grad(true);
    const at::Tensor wide = leaf.detach().to(at::kDouble).set_requires_grad(true);
    std::vector<int64_t> columns;
    for (int64_t r = 0; r < rows; ++r) columns.push_back(r == 0 ? n - 1 : numbers.Below(n));
    const at::Tensor targets = at::tensor(columns);
    const at::Tensor g = Random(at::kFloat, {rows}, numbers);
    const at::Tensor expected = at::gather(at::log_softmax(wide, 1), 1, targets.unsqueeze(1)).squeeze(1);
    (expected * g.to(at::kDouble)).sum().backward();
    const at::Tensor logprobs = LogProbabilities(leaf * 1.0, targets);
    (logprobs * g).sum().backward();
    EXPECT_TRUE(logprobs.detach().to(at::kDouble).allclose(expected.detach(), 1e-6, 1e-5)) << n;
    EXPECT_TRUE(leaf.grad().to(at::kDouble).allclose(wide.grad(), 1e-4, 1e-6)) << n;
  }
}

TEST_F(LogProbabilityTest, ANanStaysInItsRow) {
  Numbers numbers(42);
  at::Tensor logits = Random(at::kFloat, {3, 40}, numbers);
  Put(logits, 40 + 7, std::numeric_limits<float>::quiet_NaN());
  const at::Tensor logprobs = LogProbabilities(logits, at::tensor({int64_t{1}, int64_t{2}, int64_t{3}}));
  for (int64_t r = 0; r < 3; ++r) EXPECT_EQ(std::isnan(At(logprobs, r)), r == 1);
}

}  // namespace
}  // namespace lorad
