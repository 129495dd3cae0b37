// The main of tests that train: of those of tests/train, whose bases then lie on the device.
//   LORAD_TRACED_STEPS  of each golden trace so many steps; all, where the device is not emulated
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "tests/device/ends_when_broken.h"
#include "tests/device/test_device.h"
#include "tests/train/train_fixture.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  lorad::OpenTestDevice();
  testing::UnitTest::GetInstance()->listeners().Append(
      new lorad::EndsWhenBroken([] { return lorad::TestDeviceMemory().available_bytes().status(); }));
  lorad::TrainDevice() = at::Device(at::kCUDA, 0);
  // As far as the learning rate has risen and falls again; every step runs the same kernels.
  const char* const steps = std::getenv("LORAD_TRACED_STEPS");
  if (steps != nullptr || lorad::TestDeviceIsEmulated()) {
    lorad::MostTracedSteps() = steps == nullptr ? 5 : std::max(1, std::atoi(steps));
  }
  return RUN_ALL_TESTS();
}
