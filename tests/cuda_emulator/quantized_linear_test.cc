// What the CUDA form of Linear promises beyond, or short of, the operator's own test
// (tests/op/quantized_linear_test.cc).
#include <array>
#include <tuple>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "model/ops/cuda/quantized_kernels.h"
#include "model/ops/cuda/quantized_tiles.h"
#include "model/ops/cuda_ops.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

// The largest difference, relative to the largest number.
double Off(const at::Tensor& y, const at::Tensor& expected) {
  const at::Tensor wide = expected.to(at::kDouble);
  return ((y.to(at::kDouble) - wide).abs().max() / wide.abs().max()).item<double>();
}

class CudaQuantizedLinearTest : public testing::TestWithParam<std::tuple<at::ScalarType, Quantization>> {
 protected:
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  LinearWeight Weight(int64_t out, int64_t in) {
    return LinearWeight::Quantize(Random(at::kFloat, {out, in}, numbers_), std::get<1>(GetParam()));
  }
  // x W'^T in f64, W' rounded to x's type.
  at::Tensor Expected(const at::Tensor& x, const LinearWeight& w) const {
    return at::mm(x.to(at::kDouble), w.RowMajor().to(dtype()).to(at::kDouble).t());
  }
  double tolerance() const { return dtype() == at::kFloat ? 2e-6 : 1.0 / 256; }

  Numbers numbers_{1};
};

// The forms end elsewhere for bf16 rows: those of tensor cores begin at kLeastTiledRows.
TEST_P(CudaQuantizedLinearTest, ARowHasTheSameBitsAloneAndAmongOthersOfItsForm) {
  struct Form {
    int64_t all;
    std::vector<int64_t> some;
  };
  const std::vector<Form> forms = dtype() == at::kFloat
                                      ? std::vector<Form>{{cuda::kFewRows, {1, 2, 4, 5, 8, 9, 15}}}
                                      : std::vector<Form>{{4, {1, 2, 3}}, {70, {5, 8, 9, 16, 17, 32, 33, 64, 65}}};
  for (const Form& form : forms) {
    for (const int64_t in : {40, 576, 1100}) {
      const LinearWeight w = Weight(37, in);
      const at::Tensor x = Random(dtype(), {form.all, in}, numbers_);
      at::Tensor y = at::empty({form.all, 37}, x.options());
      ASSERT_OK(cuda::Linear({x, w, y}));
      for (const int64_t rows : form.some) {
        at::Tensor few = at::empty({rows, 37}, x.options());
        for (const int64_t first : {int64_t{0}, form.all - rows}) {
          ASSERT_OK(cuda::Linear({x.narrow(0, first, rows), w, few}));
          for (int64_t r = 0; r < rows; ++r) ASSERT_EQ(RowBytes(few, r), RowBytes(y, first + r)) << in << " " << rows;
        }
      }
    }
  }
}

// On tensor cores q is exact and so is W', which bf16 would round: what remains is y's own rounding.
TEST_P(CudaQuantizedLinearTest, SomeRowsMultiplyWhatIsNotRounded) {
  for (const auto& [rows, in, out] :
       std::vector<std::array<int64_t, 3>>{{5, 2056, 150}, {33, 1100, 20}, {128, 72, 3}}) {
    const LinearWeight w = Weight(out, in);
    const at::Tensor x = Random(dtype(), {rows, in}, numbers_), wide = at::empty({rows, out + 5}, x.options());
    wide.fill_(7.0f);
    at::Tensor y = wide.narrow(1, 3, out);
    ASSERT_OK(cuda::Linear({x, w, y}));
    const at::Tensor expected = at::mm(x.to(at::kDouble), w.RowMajor().to(at::kDouble).t());
    const at::Tensor off = (y.to(at::kDouble) - expected).abs() - expected.abs() / 256;
    EXPECT_LT(off.max().item<double>(), 1e-4) << rows;
    EXPECT_EQ(At(wide.contiguous(), 2), 7.0f);
    EXPECT_EQ(At(wide.contiguous(), out + 3), 7.0f);
  }
}

TEST_P(CudaQuantizedLinearTest, ManyRowsMultiplyRoundedWeightsInTheirOwnType) {
  const int64_t least = dtype() == at::kFloat ? cuda::kFewRows + 1 : cuda::kMostTiledRows + 1;
  for (const int64_t rows : {least, least + 43}) {
    for (const int64_t in : {1, 65, 200, 576}) {
      const LinearWeight w = Weight(35, in);
      const at::Tensor x = Random(dtype(), {rows, in}, numbers_);
      at::Tensor wide_y = Filled(dtype(), {rows, 40}, [](int64_t) { return 7.0f; });
      at::Tensor y = wide_y.narrow(1, 3, 35);
      ASSERT_OK(cuda::Linear({x, w, y}));
      EXPECT_LT(Off(y, Expected(x, w)), tolerance()) << rows << " x " << in;
      EXPECT_EQ(At(wide_y, 2), 7.0f);
      EXPECT_EQ(At(wide_y, 38), 7.0f);
    }
  }
}

TEST_P(CudaQuantizedLinearTest, ExpertsOfFewAndOfManyRowsMultiplyTheirOwnWeights) {
  constexpr int64_t kIn = 96, kOut = 40;
  std::vector<LinearWeight> gate, up;
  for (int e = 0; e < 4; ++e) gate.push_back(Weight(kOut, kIn)), up.push_back(Weight(kOut, kIn));
  const std::vector<int32_t> starts = {0, 3, 3, 10, 50};
  const at::Tensor x = Random(dtype(), {30, kIn}, numbers_);
  std::vector<int32_t> rows;
  for (int32_t p = 0; p < 50; ++p) rows.push_back(p * 7 % 30);
  at::Tensor y = Filled(dtype(), {50, 2 * kOut}, [](int64_t) { return 7.0f; });
  const std::vector<ExpertLinearPart> parts = {{gate, 0}, {up, kOut}};
  ASSERT_OK(cuda::ExpertLinear({x, parts, starts, rows, y}));
  for (const size_t e : {0, 2, 3}) {
    for (int32_t p = starts[e]; p < starts[e + 1]; ++p) {
      const at::Tensor of_pair = x.narrow(0, rows[static_cast<size_t>(p)], 1), made = y.narrow(0, p, 1);
      // Relative to a row's largest number: a few of the row's epsilons.
      EXPECT_LT(Off(made.narrow(1, 0, kOut), Expected(of_pair, gate[e])), 4 * tolerance()) << "pair " << p;
      EXPECT_LT(Off(made.narrow(1, kOut, kOut), Expected(of_pair, up[e])), 4 * tolerance()) << "pair " << p;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Emulated, CudaQuantizedLinearTest,
                         testing::Combine(testing::Values(at::kFloat, at::kBFloat16),
                                          testing::ValuesIn(kQuantizedForms)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) == at::kFloat ? "F32" : "BF16") +
                                  std::string(Name(std::get<1>(info.param)));
                         });

// A panel of such width fills the scratch.
TEST(CudaQuantizedPartsTest, ALargeWeightIsMultipliedPartByPart) {
  constexpr int64_t kRows = cuda::kFewRows + 1, kIn = (int64_t{1} << 20) + 8, kOut = 17;
  Numbers numbers(2);
  const LinearWeight w = LinearWeight::Quantize(Random(at::kFloat, {kOut, kIn}, numbers), Quantization::kInt8);
  const at::Tensor x = Random(at::kFloat, {kRows, kIn}, numbers);
  at::Tensor y = at::empty({kRows, kOut}, x.options());
  ASSERT_OK(cuda::Linear({x, w, y}));
  EXPECT_LT(Off(y, at::mm(x, w.RowMajor().t())), 1e-4);
}

}  // namespace
}  // namespace lorad
