// The main of tests that bring their tensors to the device themselves.
#include <gtest/gtest.h>

#include "tests/device/test_device.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  lorad::OpenTestDevice();
  return RUN_ALL_TESTS();
}
