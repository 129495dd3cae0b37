#include "tests/device/ends_when_broken.h"

#include <gtest/gtest.h>

#include "absl/status/status.h"

namespace lorad {
namespace {

TEST(EndsWhenBrokenDeathTest, ABrokenDeviceEndsTheProgramWithTheTestsName) {
  const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
  EndsWhenBroken ends([] { return absl::InternalError("CUDA: an illegal memory access"); });
  EXPECT_EXIT(ends.OnTestEnd(test), testing::ExitedWithCode(3),
              "BROKEN  . EndsWhenBrokenDeathTest.ABrokenDeviceEndsTheProgramWithTheTestsName: the device: CUDA: an "
              "illegal memory access");
  EndsWhenBroken goes_on([] { return absl::OkStatus(); });
  goes_on.OnTestEnd(test);
}

}  // namespace
}  // namespace lorad
