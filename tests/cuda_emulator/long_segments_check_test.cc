// The form of long segments on tensor cores is given up where it differs on the device at hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tensor_cores.cuh>

#include "adapters/ops/long_segments_cuda.h"
#include "model/ops/open_cuda.h"

namespace lorad {
namespace {

TEST(LongSegmentsCheckTest, TensorCoresThatComputeSomethingElseAreNotUsed) {
  EXPECT_THAT(cuda::CheckLongSegments(), testing::IsEmpty());
  EXPECT_TRUE(cuda::UsesLongSegments());
  emulator::mma_is_wrong = true;
  EXPECT_THAT(CheckFastForms(),
              testing::Contains(
                  testing::AllOf(testing::StartsWith("adapters' long segments on tensor cores: differs from ours by "),
                                 testing::EndsWith("; limit: 0.02; the form of short ones is used"))));
  EXPECT_FALSE(cuda::UsesLongSegments());
  emulator::mma_is_wrong = false;
  EXPECT_THAT(cuda::CheckLongSegments(), testing::IsEmpty());
  EXPECT_TRUE(cuda::UsesLongSegments());
  LeaveOutFastForms();
  EXPECT_FALSE(cuda::UsesLongSegments());
}

}  // namespace
}  // namespace lorad
