// Quantised weights are multiplied on tensor cores as long as the device at hand has them right.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tensor_cores.cuh>

#include "model/ops/open_cuda.h"
#include "model/ops/quantized_tiles_cuda.h"

namespace lorad {
namespace {

TEST(QuantizedTilesCheckTest, TensorCoresThatComputeSomethingElseAreNotUsed) {
  EXPECT_THAT(cuda::CheckQuantizedTiles(nullptr), testing::IsEmpty());
  for (const Quantization form : kQuantizedForms) EXPECT_TRUE(cuda::UsesQuantizedTiles(form));
  emulator::mma_is_wrong = true;
  const std::vector<std::string> lines = CheckFastForms();
  for (const Quantization form : kQuantizedForms) {
    EXPECT_THAT(lines, testing::Contains(testing::AllOf(
                           testing::StartsWith(std::string(Name(form)) + " weights on tensor cores, 7 rows: differs"),
                           testing::EndsWith("; limit: 0.02; the forms of few and of many rows are used"))));
    EXPECT_FALSE(cuda::UsesQuantizedTiles(form));
  }
  emulator::mma_is_wrong = false;
  EXPECT_THAT(cuda::CheckQuantizedTiles(nullptr), testing::IsEmpty());
  EXPECT_TRUE(cuda::UsesQuantizedTiles(Quantization::kInt4));
}

}  // namespace
}  // namespace lorad
