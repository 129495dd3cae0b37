// The main of tests that bring their tensors to the device themselves.
#include <gtest/gtest.h>

#include "tests/device/ends_when_broken.h"
#include "tests/device/test_device.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  lorad::OpenTestDevice();
  testing::UnitTest::GetInstance()->listeners().Append(
      new lorad::EndsWhenBroken([] { return lorad::TestDeviceMemory().available_bytes().status(); }));
  return RUN_ALL_TESTS();
}
