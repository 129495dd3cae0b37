#include "model/ops/autograd/linear_backward.h"

#include <ATen/ops/mm.h>

#include "model/ops/autograd/row_ops.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/pieces.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

struct Sizes {
  int64_t rows;
  int64_t out;
  int64_t in;
};

// What is announced on this thread while it lives.
struct CountedPieces {
  int64_t pieces = 0, products = 0;
  const PieceListener listener{[this](int64_t of_piece) {
    ++pieces;
    products += of_piece;
  }};
};

class LinearBackwardTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
  at::Tensor Gradient(const Sizes& sizes) { return Random(GetParam(), {sizes.rows, sizes.out}, numbers_); }
  at::Tensor Weight(const Sizes& sizes) {
    return Random(GetParam(), {sizes.out, sizes.in}, numbers_, 1.0f / std::sqrt(static_cast<float>(sizes.out)));
  }

  Numbers* numbers() { return &numbers_; }

 private:
  Numbers numbers_{21};
};

// Whole panels and parts of them, words that are half full, and more outputs than are multiplied at once.
TEST_P(LinearBackwardTest, EqualsTheLoopForOddSizes) {
  for (const Sizes& sizes : std::vector<Sizes>{{1, 1, 1},
                                               {2, 3, 7},
                                               {5, 16, 16},
                                               {40, 19, 33},
                                               {13, 32, 64},
                                               {24, 577, 50},
                                               {31, 100, 97},
                                               {3, 4096, 35},
                                               {27, 4099, 40},
                                               {1, 8209, 18}}) {
    const at::Tensor g = Gradient(sizes), w = Weight(sizes);
    std::vector<double> expected;
    for (int64_t r = 0; r < sizes.rows; ++r) {
      for (int64_t k = 0; k < sizes.in; ++k) {
        double sum = 0;
        for (int64_t c = 0; c < sizes.out; ++c) {
          sum += static_cast<double>(At(g, r * sizes.out + c)) * At(w, c * sizes.in + k);
        }
        expected.push_back(sum);
      }
    }
    for (const LinearWeight& weight : {LinearWeight::Prepare(w), LinearWeight::Pack(w.clone())}) {
      const at::Tensor dx = LinearBackward(g, weight);
      ASSERT_EQ(dx.scalar_type(), GetParam());
      ExpectClose(dx, expected, 4e-6, Epsilon(GetParam()));
    }
  }
}

// Of one weight the same bits whether it is packed or not, too.
TEST_P(LinearBackwardTest, ARowHasTheSameBitsAloneAndAmongOthers) {
  for (const Sizes& sizes : std::vector<Sizes>{{60, 577, 83}, {26, 4200, 48}}) {
    const at::Tensor g = Gradient(sizes), w = Weight(sizes);
    const LinearWeight weight = LinearWeight::Pack(w.clone());
    if (!weight.packed()) return;  // LibTorch's matmul promises neither
    const at::Tensor all = LinearBackward(g, weight);
    if (GetParam() == at::kFloat) {
      EXPECT_TRUE(LinearBackward(g, LinearWeight::Prepare(w)).equal(all));
    }
    for (const int64_t rows : {1, 2, 5, 12, 13}) {
      for (int64_t r = 0; r + rows <= sizes.rows; r += rows) {
        const at::Tensor few = LinearBackward(g.narrow(0, r, rows), weight);
        for (int64_t i = 0; i < rows; ++i) ASSERT_EQ(RowBytes(few, i), RowBytes(all, r + i)) << rows << " " << r + i;
      }
    }
  }
}

// Who interrupts is told of all products, and changes none.
TEST_P(LinearBackwardTest, PiecesOfAPackedWeightChangeNothing) {
  const Sizes sizes = {150, 4200, 2080};
  const at::Tensor g = Gradient(sizes);
  const LinearWeight weight = LinearWeight::Pack(Weight(sizes));
  if (!weight.packed()) return;  // LibTorch's matmul promises neither
  const at::Tensor whole = LinearBackward(g, weight);
  CountedPieces counted;
  EXPECT_TRUE(LinearBackward(g, weight).equal(whole));
  EXPECT_GT(counted.pieces, 2);
  EXPECT_EQ(counted.products, sizes.rows * sizes.out * sizes.in);
}

// Few rows of a large weight, a head's: even they are several pieces, forward and back.
TEST_P(LinearBackwardTest, OutputsOfALargeMatrixAreCutToo) {
  const Sizes sizes = {20, 20011, 576};
  const at::Tensor g = Gradient(sizes), x = Random(GetParam(), {sizes.rows, sizes.in}, *numbers()), w = Weight(sizes);
  for (const LinearWeight& weight : {LinearWeight::Prepare(w), LinearWeight::Pack(w.clone())}) {
    const at::Tensor dx = LinearBackward(g, weight), y = LinearOf(x, weight);
    CountedPieces counted;
    EXPECT_TRUE(LinearOf(x, weight).equal(y));
    EXPECT_EQ(counted.pieces, 2);
    EXPECT_EQ(counted.products, sizes.rows * sizes.out * sizes.in);
    EXPECT_TRUE(LinearBackward(g, weight).allclose(dx, 1e-4, 1e-5));
    EXPECT_EQ(counted.products, 2 * sizes.rows * sizes.out * sizes.in);
  }
}

TEST_P(LinearBackwardTest, AcceptsRowsOfALargerTensorAndNone) {
  const Sizes sizes = {6, 40, 33};
  const at::Tensor wide = Gradient({6, 100, 0}), w = Weight(sizes);
  for (const LinearWeight& weight : {LinearWeight::Prepare(w), LinearWeight::Pack(w.clone())}) {
    const at::Tensor g = wide.narrow(1, 30, 40);
    EXPECT_TRUE(LinearBackward(g, weight).equal(LinearBackward(g.contiguous(), weight)));
    EXPECT_TRUE(LinearBackward(wide.narrow(1, 0, 1).expand({6, 40}), weight).isfinite().all().item<bool>());
    EXPECT_EQ(LinearBackward(g.narrow(0, 0, 0), weight).sizes(), (std::vector<int64_t>{0, 33}));
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, LinearBackwardTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
