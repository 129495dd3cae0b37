// gpu_bench compares what it is about to measure with our plain kernels, on the shape at hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/gpu_bench.h"
#include "model/ops/open_cuda.h"
#include "tests/cuda_emulator/tiled_attention.h"

namespace lorad {
namespace {

using emulator::TiledAttentionCall;

constexpr bench::ModelShape kShape = {"tiny", 128, 2, 2, 1, 96, 101, false};  // a head has 64

// Whether the comparison passes with the forms that the check at start lets through.
bool Passes(bool fast_forms = true) {
  bench::Report report;
  return bench::GpuBench(kShape, bench::Small(), {.only = {"forms"}, .fast_forms = fast_forms}, &report).Run();
}

class GpuBenchFormsTest : public testing::Test {
 protected:
  GpuBenchFormsTest() { EXPECT_THAT(CheckFastForms(), testing::IsEmpty()); }
  ~GpuBenchFormsTest() override {
    emulator::SetTiledAttention(emulator::TiledAttention::kRight);
    LeaveOutFastForms();
  }
};

TEST_F(GpuBenchFormsTest, FormsThatAreRightPassAndAreUsedFromThenOn) {
  const int before = emulator::TiledAttentionRuns();
  EXPECT_TRUE(Passes());
  EXPECT_GT(emulator::TiledAttentionRuns(), before);
}

// No case of the check at start has two heads on one.
TEST_F(GpuBenchFormsTest, AFormThatIsWrongOfThisShapeAloneFailsThePart) {
  const auto of_this_shape = [](const TiledAttentionCall& c) { return c.heads == 2 && c.kv_heads == 1; };
  for (const bool prompts : {true, false}) {
    SCOPED_TRACE(prompts);
    emulator::SetTiledAttentionWrongAt(
        [=](const TiledAttentionCall& c) { return of_this_shape(c) && (c.tile_rows > 16) == prompts; });
    ASSERT_THAT(CheckFastForms(), testing::IsEmpty());
    testing::internal::CaptureStderr();
    EXPECT_FALSE(Passes());
    EXPECT_THAT(testing::internal::GetCapturedStderr(),
                testing::AllOf(testing::HasSubstr("differ from ours: "), testing::HasSubstr("limit: mean "),
                               testing::HasSubstr("--fast-forms=off")));
  }
}

TEST_F(GpuBenchFormsTest, NothingIsComparedWhereNoneIsToBeUsed) {
  emulator::SetTiledAttention(emulator::TiledAttention::kWrong);
  LeaveOutFastForms();
  const int before = emulator::TiledAttentionRuns();
  EXPECT_TRUE(Passes(/*fast_forms=*/false));
  EXPECT_EQ(emulator::TiledAttentionRuns(), before);
}

}  // namespace
}  // namespace lorad
