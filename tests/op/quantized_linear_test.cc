// Linears over quantised weights against a loop over W', which quantized_testing.h computes from its definition.
#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "model/ops/autograd/row_ops.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/expert_linear.h"
#include "model/ops/linear.h"
#include "model/quantization.h"
#include "tests/op/op_testing.h"
#include "tests/op/quantized_testing.h"

namespace lorad {
namespace {

class QuantizedLinearTest : public testing::TestWithParam<std::tuple<at::ScalarType, Quantization>> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  Quantization quantization() const { return std::get<1>(GetParam()); }
  // Weights with a mean, as int4's zero is for.
  at::Tensor Weights(int64_t out, int64_t in, Numbers& numbers) const {
    const float size = 1.0f / std::sqrt(static_cast<float>(in));
    return Filled(at::kFloat, {out, in},
                  [&](int64_t i) { return numbers.Uniform(-size, size) + (i / 64 % 3 == 0 ? size / 2 : 0.0f); });
  }
  void ExpectTheLoop(int64_t rows, Numbers& numbers) const {
    for (const int64_t in : {1, 64, 65, 200, 648}) {
      for (const int64_t out : {1, 16, 35, 70}) {
        const at::Tensor w = Weights(out, in, numbers), x = Random(dtype(), {rows, in}, numbers);
        at::Tensor y = Filled(dtype(), {rows, out}, [](int64_t) { return 7.0f; });
        ASSERT_OK(Linear({x, LinearWeight::Quantize(w, quantization()), y}));
        ExpectClose(y, Products(x, Rounded(quantization(), w)), 4e-6, Epsilon(dtype()));
      }
    }
  }
};

TEST_P(QuantizedLinearTest, FewRowsEqualTheLoopOverRoundedWeights) {
  Numbers numbers(1);
  for (const int64_t rows : {1, 2, 3, 5, 6, 7, 8, 13, 16}) ExpectTheLoop(rows, numbers);
}

TEST_P(QuantizedLinearTest, ManyRowsEqualTheLoopOverRoundedWeights) {
  Numbers numbers(12);
  for (const int64_t rows : {17, 30, 33, 64, 65, 100}) ExpectTheLoop(rows, numbers);
}

TEST_P(QuantizedLinearTest, ARowHasTheSameBitsAloneAndAmongOthers) {
  Numbers numbers(2);
  constexpr int64_t kAll = 150;
  for (const int64_t in : {40, 576, 2048}) {
    const at::Tensor x = Random(dtype(), {kAll, in}, numbers);
    const LinearWeight w = LinearWeight::Quantize(Weights(77, in, numbers), quantization());
    at::Tensor y = at::empty({kAll, 77}, x.options());
    ASSERT_OK(Linear({x, w, y}));
    for (const int64_t rows : {1, 2, 5, 6, 7, 12, 13, 24, 25, 48, 49, 97}) {
      at::Tensor few = at::empty({rows, 77}, x.options());
      for (const int64_t first : {int64_t{0}, (kAll - rows) / 2, kAll - rows}) {
        ASSERT_OK(Linear({x.narrow(0, first, rows), w, few}));
        for (int64_t r = 0; r < rows; ++r) ASSERT_EQ(RowBytes(few, r), RowBytes(y, first + r)) << in << " " << rows;
      }
    }
  }
}

TEST_P(QuantizedLinearTest, GivesItsRoundedRowsBackToTheBit) {
  Numbers numbers(3);
  for (const auto& [out, in] : std::vector<std::array<int64_t, 2>>{{32, 64}, {1, 1}, {17, 33}, {48, 130}}) {
    const at::Tensor w = Weights(out, in, numbers);
    const LinearWeight quantized = LinearWeight::Quantize(w, quantization());
    EXPECT_EQ(quantized.out_features(), out);
    EXPECT_EQ(quantized.in_features(), in);
    EXPECT_TRUE(quantized.RowMajor().equal(Rounded(quantization(), w))) << out << " x " << in;
    at::Tensor in_place = w.clone();
    RoundToQuantized(quantization(), out, in, in_place.mutable_data_ptr<float>());
    EXPECT_TRUE(in_place.equal(quantized.RowMajor())) << out << " x " << in;
  }
}

TEST_P(QuantizedLinearTest, TakesTheBitsThatItSays) {
  Numbers numbers(4);
  const LinearWeight w = LinearWeight::Quantize(Weights(64, 128, numbers), quantization());
  const double bits = quantization() == Quantization::kInt8 ? 8.5 : quantization() == Quantization::kInt4 ? 4.5 : 8.25;
  EXPECT_EQ(static_cast<double>(w.weight().nbytes()), 64 * 128 * bits / 8);
}

TEST_P(QuantizedLinearTest, GroupsOfEqualsZerosAndHugeNumbersAreWhatTheyWere) {
  at::Tensor w = Filled(at::kFloat, {4, 128}, [](int64_t i) { return i < 128 ? 0.0f : i < 256 ? 0.5f : 0.0f; });
  Put(w, 2 * 128 + 3, 1e30f);
  Put(w, 3 * 128 + 70, -1e-30f);
  const at::Tensor made = LinearWeight::Quantize(w, quantization()).RowMajor();
  for (int64_t i = 0; i < w.numel(); ++i) {
    const float size = i / 128 == 2 ? 1e30f : i / 128 == 3 ? 1e-30f : 0.5f;
    EXPECT_NEAR(At(made, i), At(w, i), size / 100) << i;
  }
}

TEST_P(QuantizedLinearTest, ANanStaysInItsRowAndInItsColumn) {
  Numbers numbers(5);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  at::Tensor x = Random(dtype(), {9, 96}, numbers), w = Weights(20, 96, numbers), y = at::empty({9, 20}, x.options());
  for (int64_t k = 0; k < 96; ++k) Put(x, 4 * 96 + k, nan);
  Put(w, 7 * 96 + 80, nan);
  Put(w, 8 * 96 + 80, std::numeric_limits<float>::infinity());
  ASSERT_OK(Linear({x, LinearWeight::Quantize(w, quantization()), y}));
  for (int64_t i = 0; i < y.numel(); ++i) {
    EXPECT_EQ(std::isnan(At(y, i)), i / 20 == 4 || i % 20 == 7 || i % 20 == 8) << i;
  }
}

TEST_P(QuantizedLinearTest, ReadsAndWritesColumnsOfLargerTensors) {
  Numbers numbers(6);
  const at::Tensor wide = Random(dtype(), {6, 100}, numbers), x = wide.narrow(1, 10, 64);
  const LinearWeight w = LinearWeight::Quantize(Weights(20, 64, numbers), quantization());
  at::Tensor wide_y = Filled(dtype(), {6, 30}, [](int64_t) { return 1.0f; });
  at::Tensor y = wide_y.narrow(1, 5, 20), alone = at::empty({6, 20}, x.options());
  ASSERT_OK(Linear({x, w, y}));
  ASSERT_OK(Linear({x.contiguous(), w, alone}));
  EXPECT_TRUE(y.equal(alone));
  for (int64_t r = 0; r < 6; ++r) {
    EXPECT_EQ(At(wide_y, r * 30 + 4), 1.0f);
    EXPECT_EQ(At(wide_y, r * 30 + 25), 1.0f);
  }
}

TEST_P(QuantizedLinearTest, ExpertsHaveTheBitsOfLinear) {
  Numbers numbers(7);
  constexpr int64_t kIn = 96, kOut = 40;
  std::vector<LinearWeight> experts;
  for (int e = 0; e < 4; ++e) experts.push_back(LinearWeight::Quantize(Weights(kOut, kIn, numbers), quantization()));
  const std::vector<int32_t> starts = {0, 3, 3, 10, 70};
  std::vector<int32_t> rows;
  for (int32_t e : {0, 2, 3}) {
    for (int32_t i = 0; i < starts[e + 1] - starts[e]; ++i) rows.push_back(e == 2 ? 2 * i : i);
  }
  const at::Tensor x = Random(dtype(), {60, kIn}, numbers);
  at::Tensor y = at::empty({70, kOut}, x.options()), alone = at::empty({1, kOut}, x.options());
  const std::vector<ExpertLinearPart> parts = {{experts, 0}};
  ASSERT_OK(ExpertLinear({x, parts, starts, rows, y}));
  for (const int e : {0, 2, 3}) {
    for (int32_t p = starts[e]; p < starts[e + 1]; ++p) {
      ASSERT_OK(Linear({x.narrow(0, rows[p], 1), experts[e], alone}));
      ASSERT_EQ(RowBytes(alone, 0), RowBytes(y, p)) << "expert " << e << ", pair " << p;
    }
  }
  experts[3] = LinearWeight::Prepare(Random(dtype(), {kOut, kIn}, numbers));
  EXPECT_INVALID(ExpertLinear({x, std::vector<ExpertLinearPart>{{experts, 0}}, starts, rows, y}), "weight");
}

TEST_P(QuantizedLinearTest, TheGradientOfXIsThatOfRoundedWeights) {
  Numbers numbers(8);
  const at::Tensor stored = Weights(40, 96, numbers), g = Random(dtype(), {5, 40}, numbers);
  const LinearWeight w = LinearWeight::Quantize(stored, quantization());
  at::Tensor x = Random(dtype(), {5, 96}, numbers);
  x.set_requires_grad(true);
  LinearOf(x, w).backward(g);
  const at::Tensor rounded = Rounded(quantization(), stored);
  std::vector<double> expected;
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t k = 0; k < 96; ++k) {
      double sum = 0;
      for (int64_t c = 0; c < 40; ++c) sum += static_cast<double>(At(g, r * 40 + c)) * At(rounded, c * 96 + k);
      expected.push_back(sum);
    }
  }
  // bf16: W' is rounded to it once more, each of 40 products by half of 1/256.
  ExpectClose(x.grad().contiguous(), expected, dtype() == at::kFloat ? 4e-6 : 1e-2, Epsilon(dtype()));
}

// A large weight, quantised or not, is unpacked part by part.
TEST_P(QuantizedLinearTest, TheGradientOfXOfALargeWeightIsThatOfAllItsParts) {
  Numbers numbers(11);
  constexpr int64_t kOut = 4099, kIn = 2050;
  const at::Tensor stored = Weights(kOut, kIn, numbers), g = Random(dtype(), {3, kOut}, numbers);
  const at::Tensor narrow = stored.to(at::kBFloat16);
  const auto expect = [&](const LinearWeight& w, const at::Tensor& numbers_of_w) {
    at::Tensor x = at::zeros({3, kIn}, g.options()).set_requires_grad(true);
    LinearOf(x, w).backward(g);
    const at::Tensor expected = at::mm(g.to(at::kDouble), numbers_of_w.to(dtype()).to(at::kDouble));
    const double off = (x.grad().to(at::kDouble) - expected).abs().max().item<double>();
    EXPECT_LT(off / expected.abs().max().item<double>(), dtype() == at::kFloat ? 4e-6 : 1e-2);
  };
  expect(LinearWeight::Quantize(stored, quantization()), Rounded(quantization(), stored));
  if (dtype() == at::kBFloat16) expect(LinearWeight::Pack(narrow.clone()), narrow);
}

TEST_P(QuantizedLinearTest, NamesTheBadArgument) {
  Numbers numbers(9);
  const LinearWeight w = LinearWeight::Quantize(Weights(8, 16, numbers), quantization());
  const at::Tensor x = Random(dtype(), {3, 16}, numbers);
  at::Tensor y = at::empty({3, 8}, x.options()), short_y = y.narrow(0, 0, 2);
  EXPECT_INVALID(Linear({x.narrow(1, 0, 15), w, y}), "x: [3, 15]");
  EXPECT_INVALID(Linear({x, w, short_y}), "y: [2, 8]");
  EXPECT_INVALID(Linear({x.to(at::kDouble), w, y}), "x: [3, 16] Double");
}

INSTANTIATE_TEST_SUITE_P(Cpu, QuantizedLinearTest,
                         testing::Combine(testing::Values(at::kFloat, at::kBFloat16),
                                          testing::ValuesIn(kQuantizedForms)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) == at::kFloat ? "F32" : "BF16") +
                                  std::string(Name(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace lorad
