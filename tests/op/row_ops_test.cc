// Embedding, learned positions and the norms.
#include <ATen/ops/empty_like.h>

#include "model/ops/add_positions.h"
#include "model/ops/embedding.h"
#include "model/ops/layer_norm.h"
#include "model/ops/rms_norm.h"
#include "model/ops/cpu/parallel.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

class RowOpsTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
};

TEST_P(RowOpsTest, EmbeddingCopiesRowsOfTheTable) {
  Numbers numbers(1);
  for (int64_t width : {1, 7, 64, 2048}) {
    const at::Tensor table = Random(GetParam(), {40, width}, numbers);
    std::vector<int32_t> ids = {0, 39, 5, 5, 17};
    for (int i = 0; i < 100; ++i) ids.push_back(static_cast<int32_t>(numbers.Below(40)));
    at::Tensor y = at::empty({static_cast<int64_t>(ids.size()), width}, table.options());
    ASSERT_OK(Embedding({Ints(ids), LinearWeight::Prepare(table), y}));
    for (size_t r = 0; r < ids.size(); ++r) ASSERT_EQ(RowBytes(y, static_cast<int64_t>(r)), RowBytes(table, ids[r]));
  }
}

// A tied head's table; 40 of its rows fill no whole panels.
TEST_P(RowOpsTest, EmbeddingOfPanelsCopiesTheSameRows) {
  Numbers numbers(3);
  for (int64_t width : {1, 7, 64, 2048}) {
    const at::Tensor table = Random(GetParam(), {40, width}, numbers);
    std::vector<int32_t> ids;
    for (int32_t id = 39; id >= 0; --id) ids.push_back(id);
    at::Tensor y = at::empty({40, width}, table.options());
    ASSERT_OK(Embedding({Ints(ids), LinearWeight::Pack(table.clone()), y}));
    for (int64_t r = 0; r < 40; ++r) ASSERT_EQ(RowBytes(y, r), RowBytes(table, 39 - r)) << width;
  }
}

TEST_P(RowOpsTest, EmbeddingRefusesIdsOutsideTheTable) {
  Numbers numbers(2);
  const LinearWeight table = LinearWeight::Prepare(Random(GetParam(), {4, 8}, numbers));
  at::Tensor y = at::empty({2, 8}, table.weight().options());
  EXPECT_INVALID(Embedding({Ints({0, 4}), table, y}), "ids: 4 in row 1; limit: 0 to 3");
  EXPECT_INVALID(Embedding({Ints({-1, 0}), table, y}), "ids: -1 in row 0");
  EXPECT_INVALID(Embedding({Ints({1}), table, y}), "y: [2, 8]");
}

TEST_P(RowOpsTest, RmsNormEqualsTheLoopWithAndWithoutResidual) {
  Numbers numbers(3);
  const double eps = 1e-5;
  for (int64_t width : {1, 5, 16, 33, 100, 2048}) {
    for (const bool with_residual : {false, true}) {
      const int64_t rows = 21;
      const at::Tensor x = Random(GetParam(), {rows, width}, numbers, 3.0f),
                       weight = Random(GetParam(), {width}, numbers);
      at::Tensor residual = Random(GetParam(), {rows, width}, numbers, 3.0f);
      at::Tensor y = at::empty({rows, width}, x.options());
      std::vector<double> sums, expected;
      for (int64_t r = 0; r < rows; ++r) {
        double squares = 0;
        for (int64_t i = r * width; i < (r + 1) * width; ++i) {
          sums.push_back(with_residual ? RoundTo(GetParam(), At(x, i) + At(residual, i)) : At(x, i));
          squares += sums.back() * sums.back();
        }
        for (int64_t i = 0; i < width; ++i) {
          const double normed = sums[r * width + i] / std::sqrt(squares / static_cast<double>(width) + eps);
          expected.push_back(At(weight, i) * RoundTo(GetParam(), static_cast<float>(normed)));
        }
      }
      ASSERT_OK(RmsNorm({x, weight, eps, with_residual ? &residual : nullptr, y}));
      ExpectClose(y, expected, 1e-6, 2 * Epsilon(GetParam()));
      if (with_residual) ExpectClose(residual, sums, 0, 0);
    }
  }
}

// Gemma's: the weight is f32, and only the product with it is rounded.
TEST_P(RowOpsTest, RmsNormWithAWideWeightRoundsOnce) {
  Numbers numbers(6);
  for (int64_t width : {1, 5, 16, 33, 100, 2048}) {
    const int64_t rows = 9;
    const at::Tensor x = Random(GetParam(), {rows, width}, numbers, 3.0f);
    const at::Tensor weight = Filled(at::kFloat, {width}, [&](int64_t) { return 1 + numbers.Uniform(-1, 1); });
    at::Tensor y = at::empty({rows, width}, x.options());
    std::vector<double> expected;
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0;
      for (int64_t i = r * width; i < (r + 1) * width; ++i) squares += static_cast<double>(At(x, i)) * At(x, i);
      for (int64_t i = 0; i < width; ++i) {
        expected.push_back(At(weight, i) *
                           (At(x, r * width + i) / std::sqrt(squares / static_cast<double>(width) + 1e-6)));
      }
    }
    ASSERT_OK(RmsNorm({x, weight, 1e-6, nullptr, y}));
    // Half a unit in the last place of bf16; two roundings reach one and a half.
    ExpectClose(y, expected, 1e-6, GetParam() == at::kFloat ? 4e-6 : 0.502 / 128);
  }
}

TEST_P(RowOpsTest, RmsNormInPlaceAndNansOfOneRowStayThere) {
  Numbers numbers(4);
  at::Tensor x = Random(GetParam(), {5, 40}, numbers);
  const at::Tensor weight = Random(GetParam(), {40}, numbers);
  at::Tensor apart = at::empty({5, 40}, x.options());
  Put(x, 2 * 40 + 7, std::numeric_limits<float>::quiet_NaN());
  ASSERT_OK(RmsNorm({x, weight, 1e-6, nullptr, apart}));
  ASSERT_OK(RmsNorm({x, weight, 1e-6, nullptr, x}));
  for (int64_t r = 0; r < 5; ++r) {
    if (r != 2) {
      EXPECT_EQ(RowBytes(x, r), RowBytes(apart, r));
    }
    for (int64_t i = 0; i < 40; ++i) EXPECT_EQ(std::isnan(At(x, r * 40 + i)), r == 2);
  }
  EXPECT_INVALID(RmsNorm({x, weight.narrow(0, 0, 39), 1e-6, nullptr, x}), "weight: [39]");
}

TEST_P(RowOpsTest, LayerNormEqualsTheLoopWithAndWithoutResidualAndWeights) {
  Numbers numbers(5);
  const double eps = 1e-5;
  const at::Tensor none;
  for (int64_t width : {2, 5, 16, 33, 100, 2048}) {
    for (const bool with_residual : {false, true}) {
      for (const int weights : {0, 1, 2}) {  // none, weight, weight and bias
        const int64_t rows = 21;
        // A mean far from zero: squares less the square of the mean would lose digits.
        const at::Tensor x = Filled(GetParam(), {rows, width}, [&](int64_t) { return numbers.Uniform(5.0f, 9.0f); });
        const at::Tensor weight = Random(GetParam(), {width}, numbers), bias = Random(GetParam(), {width}, numbers);
        at::Tensor residual = Random(GetParam(), {rows, width}, numbers, 3.0f);
        at::Tensor y = at::empty({rows, width}, x.options());
        std::vector<double> sums, expected;
        for (int64_t r = 0; r < rows; ++r) {
          double mean = 0, variance = 0;
          for (int64_t i = r * width; i < (r + 1) * width; ++i) {
            sums.push_back(with_residual ? RoundTo(GetParam(), At(x, i) + At(residual, i)) : At(x, i));
            mean += sums.back() / static_cast<double>(width);
          }
          for (int64_t i = r * width; i < (r + 1) * width; ++i) {
            variance += (sums[i] - mean) * (sums[i] - mean) / static_cast<double>(width);
          }
          for (int64_t i = 0; i < width; ++i) {
            const double normed = (sums[r * width + i] - mean) / std::sqrt(variance + eps);
            expected.push_back(normed * (weights > 0 ? At(weight, i) : 1.0) + (weights > 1 ? At(bias, i) : 0.0));
          }
        }
        ASSERT_OK(LayerNorm(
            {x, weights > 0 ? weight : none, weights > 1 ? bias : none, eps, with_residual ? &residual : nullptr, y}));
        ExpectClose(y, expected, 1e-5, Epsilon(GetParam()));  // the mean is 7 deviations off
        if (with_residual) ExpectClose(residual, sums, 0, 0);
      }
    }
  }
}

TEST_P(RowOpsTest, LayerNormWritesOverItsOperandsAndNansOfOneRowStayThere) {
  Numbers numbers(6);
  at::Tensor x = Random(GetParam(), {5, 41}, numbers), residual = Random(GetParam(), {5, 41}, numbers);
  const at::Tensor weight = Random(GetParam(), {41}, numbers), bias = Random(GetParam(), {41}, numbers);
  Put(x, 2 * 41 + 40, std::numeric_limits<float>::quiet_NaN());
  at::Tensor sum = residual.clone(), apart = at::empty_like(x);
  ASSERT_OK(LayerNorm({x, weight, bias, 1e-5, &sum, apart}));
  ASSERT_OK(LayerNorm({x, weight, bias, 1e-5, &residual, residual}));
  ASSERT_OK(LayerNorm({sum, weight, bias, 1e-5, nullptr, sum}));
  for (int64_t r = 0; r < 5; ++r) {
    if (r != 2) {
      EXPECT_EQ(RowBytes(residual, r), RowBytes(apart, r));
      EXPECT_EQ(RowBytes(sum, r), RowBytes(apart, r));
    }
    for (int64_t i = 0; i < 41; ++i) EXPECT_EQ(std::isnan(At(residual, r * 41 + i)), r == 2);
  }
  EXPECT_INVALID(LayerNorm({x, weight.narrow(0, 0, 39), bias, 1e-5, nullptr, x}), "weight: [39]");
  EXPECT_INVALID(LayerNorm({x, weight, bias.narrow(0, 0, 39), 1e-5, nullptr, x}), "bias: [39]");
  at::Tensor narrow = at::empty({4, 41}, x.options());
  EXPECT_INVALID(LayerNorm({x, weight, bias, 1e-5, &narrow, x}), "residual: [4, 41]");
}

TEST_P(RowOpsTest, AddPositionsAddsRowsOfTheTable) {
  Numbers numbers(7);
  for (int64_t width : {1, 7, 64, 2048}) {
    for (int64_t offset : {0, 2}) {
      const at::Tensor table = Random(GetParam(), {20, width}, numbers);
      const std::vector<int32_t> positions = {0, 17, 3, 3, 1};
      at::Tensor y = Random(GetParam(), {5, width}, numbers);
      std::vector<double> expected;
      for (int64_t i = 0; i < y.numel(); ++i) {
        const int64_t row = positions[static_cast<size_t>(i / width)] + offset;
        expected.push_back(RoundTo(GetParam(), At(y, i) + At(table, row * width + i % width)));
      }
      ASSERT_OK(AddPositions({Ints(positions), table, offset, y}));
      ExpectClose(y, expected, 0, 0);
    }
  }
}

TEST_P(RowOpsTest, AddPositionsRefusesPositionsOutsideTheTable) {
  Numbers numbers(8);
  const at::Tensor table = Random(GetParam(), {6, 8}, numbers);
  at::Tensor y = Random(GetParam(), {2, 8}, numbers);
  EXPECT_INVALID(AddPositions({Ints({0, 4}), table, 2, y}), "positions: 4 in row 1; limit: 0 to 3");
  EXPECT_INVALID(AddPositions({Ints({-1, 0}), table, 2, y}), "positions: -1 in row 0");
  EXPECT_INVALID(AddPositions({Ints({0}), table, 2, y}), "y: [2, 8]");
}

INSTANTIATE_TEST_SUITE_P(Cpu, RowOpsTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
