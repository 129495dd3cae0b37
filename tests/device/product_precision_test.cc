// What LibTorch lets cuBLAS do, once the library is open: Linear promises sums in f32.
#include <ATen/Context.h>
#include <gtest/gtest.h>

namespace lorad {
namespace {

TEST(ProductPrecisionTest, PartsOfSumsAreAddedInF32) {
  EXPECT_EQ(at::globalContext().allowBF16ReductionCuBLAS(),
            at::CuBLASReductionOption::DisallowReducedPrecisionAllowSplitK);
}

TEST(ProductPrecisionTest, F32IsNotRoundedToTf32) { EXPECT_FALSE(at::globalContext().allowTF32CuBLAS()); }

}  // namespace
}  // namespace lorad
