// Rows read by number and summed by row, against loops; and that each is the other's gradient.
#include "model/ops/autograd/gathered_rows.h"

#include <string>
#include <vector>

#include "tests/op/op_testing.h"

namespace lorad {
namespace {

constexpr int64_t kRows = 5, kWidth = 7;
// Row 3 has no place, row 1 most; of whole lists each row has as many.
const std::vector<std::vector<int32_t>> kLists = {{1, 0, 4, 1, 2, 1, 0}, {4, 3, 2, 1, 0, 0, 1, 2, 3, 4}, {2}, {}};

at::Tensor Drawn(at::ScalarType dtype, int64_t rows, uint64_t seed) {
  Numbers numbers(seed);
  return Random(dtype, {rows, kWidth}, numbers);
}
float At(const at::Tensor& t, int64_t row, int64_t column) { return lorad::At(t, row * kWidth + column); }

void ExpectGathered(const at::Tensor& actual, const at::Tensor& x, const std::vector<int32_t>& list) {
  ASSERT_EQ(actual.size(0), std::ssize(list));
  for (size_t p = 0; p < list.size(); ++p) {
    for (int64_t c = 0; c < kWidth; ++c) EXPECT_EQ(At(actual, static_cast<int64_t>(p), c), At(x, list[p], c));
  }
}

// In f32, by ascending place, rounded once.
void ExpectSummed(const at::Tensor& actual, const at::Tensor& values, const std::vector<int32_t>& list) {
  ASSERT_EQ(actual.size(0), kRows);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kWidth; ++c) {
      float sum = 0.0f;
      for (size_t p = 0; p < list.size(); ++p) sum += list[p] == r ? At(values, static_cast<int64_t>(p), c) : 0.0f;
      EXPECT_EQ(At(actual, r, c), RoundTo(values.scalar_type(), sum)) << r << ", " << c;
    }
  }
}

class GatheredRowsTest : public testing::TestWithParam<at::ScalarType> {};

TEST_P(GatheredRowsTest, GatherReadsRowsAndItsGradientSumsTheirPlaces) {
  for (const std::vector<int32_t>& list : kLists) {
    const at::Tensor x = Drawn(GetParam(), kRows, 1).requires_grad_(), g = Drawn(GetParam(), std::ssize(list), 2);
    const at::Tensor y = GatherRows(x, list);
    ExpectGathered(y.detach(), x.detach(), list);
    y.backward(g);
    ExpectSummed(x.grad(), g, list);
  }
}

TEST_P(GatheredRowsTest, SumAddsByAscendingPlaceAndItsGradientReads) {
  for (const std::vector<int32_t>& list : kLists) {
    const at::Tensor values = Drawn(GetParam(), std::ssize(list), 3).requires_grad_(), g = Drawn(GetParam(), kRows, 4);
    const at::Tensor sums = SumRows(values, list, kRows);
    ExpectSummed(sums.detach(), values.detach(), list);
    sums.backward(g);
    ExpectGathered(values.grad(), g, list);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GatheredRowsTest, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

}  // namespace
}  // namespace lorad
