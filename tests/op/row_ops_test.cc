// Embedding, RMS norm and the gated activation.
#include <ATen/Parallel.h>

#include "model/ops/embedding.h"
#include "model/ops/gated_activation.h"
#include "model/ops/rms_norm.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

class RowOpsTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { at::set_num_threads(2); }
};

TEST_P(RowOpsTest, EmbeddingCopiesRowsOfTheTable) {
  Numbers numbers(1);
  for (int64_t width : {1, 7, 64, 2048}) {
    const at::Tensor table = Random(GetParam(), {40, width}, numbers);
    std::vector<int32_t> ids = {0, 39, 5, 5, 17};
    for (int i = 0; i < 100; ++i) ids.push_back(static_cast<int32_t>(numbers.Below(40)));
    at::Tensor y = at::empty({static_cast<int64_t>(ids.size()), width}, table.options());
    ASSERT_OK(Embedding({Ints(ids), table, y}));
    for (size_t r = 0; r < ids.size(); ++r) ASSERT_EQ(RowBytes(y, static_cast<int64_t>(r)), RowBytes(table, ids[r]));
  }
}

TEST_P(RowOpsTest, EmbeddingRefusesIdsOutsideTheTable) {
  Numbers numbers(2);
  const at::Tensor table = Random(GetParam(), {4, 8}, numbers);
  at::Tensor y = at::empty({2, 8}, table.options());
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

TEST_P(RowOpsTest, GatedActivationEqualsTheLoop) {
  Numbers numbers(5);
  for (int64_t width : {1, 9, 64, 5000}) {
    for (int64_t rows : {1, 6}) {
      at::Tensor gate_up = Random(GetParam(), {rows, 2 * width}, numbers, 8.0f);
      Put(gate_up, 0, -100.0f);  // the exponential of 100 is near the end of its range
      at::Tensor y = at::empty({rows, width}, gate_up.options());
      std::vector<double> expected;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < width; ++i) {
          const double gate = At(gate_up, r * 2 * width + i);
          expected.push_back(RoundTo(GetParam(), static_cast<float>(gate / (1 + std::exp(-gate)))) *
                             At(gate_up, r * 2 * width + width + i));
        }
      }
      ASSERT_OK(GatedActivation({gate_up, Activation::kSilu, y}));
      ExpectClose(y, expected, 1e-6, 2 * Epsilon(GetParam()));
    }
  }
}

TEST_P(RowOpsTest, GatedActivationKeepsNanAndTheEndsOfTheRange) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gates = {std::numeric_limits<float>::quiet_NaN(), 3e38f, -3e38f, infinity, 0.0f};
  at::Tensor gate_up = Filled(GetParam(), {1, 10}, [&](int64_t i) { return i < 5 ? gates[i] : 0.5f; });
  at::Tensor y = at::empty({1, 5}, gate_up.options());
  ASSERT_OK(GatedActivation({gate_up, Activation::kSilu, y}));
  EXPECT_TRUE(std::isnan(At(y, 0)));
  EXPECT_GT(At(y, 1), 1e38f);
  EXPECT_NEAR(At(y, 2), 0.0f, 0.2f);
  EXPECT_EQ(At(y, 3), infinity);
  EXPECT_EQ(At(y, 4), 0.0f);
  EXPECT_INVALID(GatedActivation({gate_up.narrow(1, 0, 9), Activation::kSilu, y}), "gate_up: [1, 9]");
}

INSTANTIATE_TEST_SUITE_P(Cpu, RowOpsTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
