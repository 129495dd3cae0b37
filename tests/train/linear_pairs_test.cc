#include "adapters/train/linear_pairs.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "model/ops/cpu/parallel.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

struct Shape {
  int64_t first_row, rows, first_column, columns, rank;
};

class LinearPairsTest : public testing::Test {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }

  at::Tensor Leaf(std::vector<int64_t> sizes) {
    return Random(at::kFloat, std::move(sizes), numbers_).set_requires_grad(true);
  }
  std::vector<PairBlock> Blocks(const std::vector<Shape>& shapes, int64_t in) {
    std::vector<PairBlock> blocks;
    for (const Shape& s : shapes) {
      blocks.push_back({s.first_row, s.rows, s.first_column, s.columns, Leaf({s.rank, in}), Leaf({s.columns, s.rank}),
                        0.5f + 0.25f * static_cast<float>(s.rank)});
    }
    return blocks;
  }

  Numbers numbers_{31};
};

// What autograd gives for the formula, block by block, in f64.
struct Expected {
  at::Tensor y, dx, dy;
  std::vector<at::Tensor> leaves;
};
Expected ByAutograd(const at::Tensor& x, const at::Tensor& y, const std::vector<PairBlock>& blocks,
                    const at::Tensor& g) {
  const auto wide = [](const at::Tensor& t) { return t.detach().to(at::kDouble).set_requires_grad(true); };
  const at::Tensor wide_x = wide(x), wide_y = wide(y);
  std::vector<at::Tensor> leaves;
  at::Tensor sum = wide_y * 1.0;
  for (const PairBlock& block : blocks) {
    const at::Tensor a = wide(block.a), b = wide(block.b);
    const at::Tensor rows = wide_x.narrow(0, block.first_row, block.rows);
    sum.narrow(0, block.first_row, block.rows)
        .narrow(1, block.first_column, block.columns)
        .add_(at::linear(at::linear(rows, a), b) * block.scale);
    leaves.push_back(a);
    leaves.push_back(b);
  }
  (sum * g.to(at::kDouble)).sum().backward();
  Expected expected = {sum.detach(), wide_x.grad(), wide_y.grad(), {}};
  for (const at::Tensor& leaf : leaves) expected.leaves.push_back(leaf.grad());
  return expected;
}

void ExpectNear(const at::Tensor& value, const at::Tensor& expected) {
  ASSERT_TRUE(value.defined());
  EXPECT_TRUE(value.to(at::kDouble).allclose(expected, 1e-4, 1e-4))
      << (value.to(at::kDouble) - expected).abs().max().item<double>();
}

const std::vector<std::vector<Shape>> kLayouts = {
    {{0, 5, 0, 19, 3}},                                             // one pair of all rows
    {{0, 70, 0, 48, 8}, {0, 70, 48, 16, 8}, {70, 130, 0, 48, 17}},  // a part without a pair
    {{3, 1, 7, 33, 1}, {9, 600, 0, 40, 4}},                         // rows without one
};

TEST_F(LinearPairsTest, ValuesAndGradientsEqualTheFormulas) {
  for (const std::vector<Shape>& shapes : kLayouts) {
    for (const int64_t in : {16, 33, 520}) {
      const std::vector<PairBlock> blocks = Blocks(shapes, in);
      const int64_t rows = shapes.back().first_row + shapes.back().rows + 2, out = 67;
      const at::Tensor x = Leaf({rows, in}), base = Leaf({rows, out}), g = Random(at::kFloat, {rows, out}, numbers_);
      const Expected expected = ByAutograd(x, base, blocks, g);
      const at::Tensor y = AddPairs(x, base * 1.0, blocks);
      ExpectNear(y.detach(), expected.y);
      (y * g).sum().backward();
      ExpectNear(x.grad(), expected.dx);
      ExpectNear(base.grad(), expected.dy);
      for (size_t i = 0; i < blocks.size(); ++i) {
        ExpectNear(blocks[i].a.grad(), expected.leaves[2 * i]);
        ExpectNear(blocks[i].b.grad(), expected.leaves[2 * i + 1]);
      }
    }
  }
}

// Rows of one adapter and its gradients are the same bits with others in the batch and without.
TEST_F(LinearPairsTest, AnAdapterHasTheSameBitsAloneAndAmongOthers) {
  const int64_t in = 100, out = 48;
  std::vector<PairBlock> blocks = Blocks({{0, 33, 0, out, 8}, {33, 70, 0, out, 4}}, in);
  const at::Tensor x = Leaf({103, in}), base = Random(at::kFloat, {103, out}, numbers_);
  const at::Tensor g = Random(at::kFloat, {103, out}, numbers_);
  const at::Tensor together = AddPairs(x, base.clone(), blocks);
  (together * g).sum().backward();
  const at::Tensor da = blocks[1].a.grad().clone(), db = blocks[1].b.grad().clone(), dx = x.grad().narrow(0, 33, 70);
  PairBlock own = blocks[1];
  own.first_row = 0;
  own.a.mutable_grad() = at::Tensor();
  own.b.mutable_grad() = at::Tensor();
  const at::Tensor own_x = x.detach().narrow(0, 33, 70).clone().set_requires_grad(true);
  const at::Tensor alone = AddPairs(own_x, base.narrow(0, 33, 70).clone(), {own});
  (alone * g.narrow(0, 33, 70)).sum().backward();
  EXPECT_TRUE(alone.equal(together.narrow(0, 33, 70)));
  EXPECT_TRUE(own_x.grad().equal(dx));
  EXPECT_TRUE(own.a.grad().equal(da));
  EXPECT_TRUE(own.b.grad().equal(db));
}

}  // namespace
}  // namespace lorad
