#include "model/layers/weight_rows.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

namespace lorad {
namespace {

constexpr int64_t kOut = 83, kIn = 70;

// [kOut, kIn], no two numbers alike
at::Tensor Numbers() { return at::arange(kOut * kIn, at::kFloat).sub(1000).div(7).view({kOut, kIn}); }

TEST(WeightRowsTest, AQuantisedWeightGivesRowsOfItsPartWhereverPanelsBegin) {
  for (const Quantization form : kQuantizedForms) {
    const LinearWeight weight = LinearWeight::Quantize(Numbers(), form);
    const at::Tensor whole = weight.RowMajor();
    for (const int64_t first_row : {0, 16, 37}) {
      const WeightRows rows(weight, first_row);
      ASSERT_TRUE(rows.defined());
      for (const int64_t first : {0, 1, 15, 16, 20}) {
        for (const int64_t count : {1, 16, 17, 26}) {
          EXPECT_TRUE(at::equal(rows.Rows(first, count), whole.narrow(0, first_row + first, count)))
              << Name(form) << ": " << first_row << " + " << first << ", " << count;
        }
      }
    }
  }
}

TEST(WeightRowsTest, AMatrixGivesViews) {
  const at::Tensor matrix = Numbers();
  const at::Tensor rows = WeightRows(LinearWeight::Prepare(matrix), /*first_row=*/5).Rows(3, 4);
  EXPECT_EQ(rows.const_data_ptr(), matrix.narrow(0, 8, 4).const_data_ptr());
  EXPECT_TRUE(at::equal(rows, matrix.narrow(0, 8, 4)));
  EXPECT_FALSE(WeightRows().defined());
}

}  // namespace
}  // namespace lorad
