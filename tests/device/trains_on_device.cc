// The main of tests that train: of those of tests/train, whose bases then lie on the device.
#include <gtest/gtest.h>

#include "tests/device/test_device.h"
#include "tests/train/train_fixture.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  lorad::OpenTestDevice();
  lorad::TrainDevice() = at::Device(at::kCUDA, 0);
  // As far as the learning rate has risen and falls again; every step runs the same kernels.
  if (lorad::TestDeviceIsEmulated()) lorad::MostTracedSteps() = 5;
  return RUN_ALL_TESTS();
}
