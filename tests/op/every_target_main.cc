// Runs the tests once for each instruction set that Highway has kernels for and this processor runs, the best first;
// before them once more with the processor's own bf16 products, if it has them.
#include <cstdio>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include "model/ops/cpu/bf16_products.h"
#include "model/ops/cpu/parallel.h"

namespace {

class NextTarget final : public testing::EmptyTestEventListener {
 public:
  NextTarget() : targets_(hwy::SupportedAndGeneratedTargets()) {
    if (lorad::cpu::HasBf16Products()) targets_.insert(targets_.begin(), targets_.front());
  }
  int targets() const { return static_cast<int>(targets_.size()); }
  void OnTestIterationStart(const testing::UnitTest&, int iteration) override {
    const int64_t target = targets_[static_cast<size_t>(iteration)];
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
    lorad::cpu::ForbidBf16Products(iteration > 0);
    std::printf("[ TARGET   ] %s%s\n", hwy::TargetName(target), lorad::cpu::HasBf16Products() ? ", bf16 products" : "");
  }

 private:
  std::vector<int64_t> targets_;
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  lorad::cpu::SetComputeThreads(2);
  auto* next_target = new NextTarget;  // gtest owns it
  GTEST_FLAG_SET(repeat, next_target->targets());
  testing::UnitTest::GetInstance()->listeners().Append(next_target);
  return RUN_ALL_TESTS();
}
