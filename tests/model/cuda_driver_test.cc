#include "model/ops/cuda_driver.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using absl::StatusCode;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kNotFound = "libcuda.so.1: cannot open shared object file: No such file or directory";

TEST(CudaDriverTest, WithADeviceNothingIsMissing) { EXPECT_THAT(CheckDriver({.devices = 1}), IsOk()); }

TEST(CudaDriverTest, AMachineWithoutAnythingShowsNoDriver) {
  const DriverFacts facts{.library_error = kNotFound};
  EXPECT_FALSE(MayHaveMeantADevice(facts, /*has_cuda_library=*/true));
  EXPECT_THAT(
      CheckDriver(facts),
      IsError(StatusCode::kNotFound, AllOf(HasSubstr("CUDA devices: 0; limit: 1 or more; libcuda.so.1: cannot open"),
                                           HasSubstr("install NVIDIA's driver"), Not(HasSubstr("container")))));
}

TEST(CudaDriverTest, AContainerWithoutTheDriversLibraryIsToldOfTheToolkit) {
  const DriverFacts facts{.library_error = kNotFound, .kernel_module = true};
  EXPECT_TRUE(MayHaveMeantADevice(facts, /*has_cuda_library=*/true));
  EXPECT_THAT(CheckDriver(facts),
              IsError(StatusCode::kNotFound,
                      AllOf(HasSubstr("No such file"), HasSubstr("--gpus=all"), HasSubstr("nvidia.com/gpu: 1"))));
  EXPECT_TRUE(MayHaveMeantADevice({.library_error = kNotFound, .device_file = true}, /*has_cuda_library=*/true));
}

TEST(CudaDriverTest, OfABuildForCpusNobodyMeantADeviceUnlessItHasOne) {
  for (const DriverFacts& traces : {DriverFacts{.library_error = kNotFound, .kernel_module = true},
                                    DriverFacts{.library_error = kNotFound, .device_file = true},
                                    DriverFacts{.start_code = 100, .device_file = true}}) {
    EXPECT_FALSE(MayHaveMeantADevice(traces, /*has_cuda_library=*/false));
  }
  EXPECT_TRUE(MayHaveMeantADevice({.devices = 1, .device_file = true}, /*has_cuda_library=*/false));
}

TEST(CudaDriverTest, ADeviceThatIsHiddenIsToldOfByWhatHidesIt) {
  DriverFacts facts{.start_code = 100, .start_name = "CUDA_ERROR_NO_DEVICE"};
  EXPECT_TRUE(MayHaveMeantADevice(facts, /*has_cuda_library=*/true));
  EXPECT_THAT(CheckDriver(facts),
              IsError(StatusCode::kNotFound, AllOf(HasSubstr("cuInit: 100 (CUDA_ERROR_NO_DEVICE)"),
                                                   HasSubstr("no /dev/nvidiactl"), HasSubstr("PrivateDevices"))));
  facts.device_file = true;
  EXPECT_THAT(CheckDriver(facts), IsError(StatusCode::kNotFound, HasSubstr("CUDA_VISIBLE_DEVICES")));
  EXPECT_THAT(CheckDriver({.device_file = true}),
              IsError(StatusCode::kNotFound, AllOf(HasSubstr("has none"), HasSubstr("CUDA_VISIBLE_DEVICES"))));
  facts.device_error = "Permission denied";
  EXPECT_THAT(CheckDriver(facts), IsError(StatusCode::kNotFound, AllOf(HasSubstr("/dev/nvidiactl: Permission denied"),
                                                                       HasSubstr("DeviceAllow"))));
}

TEST(CudaDriverTest, WhatKeepsTheDriverFromStartingHasItsOwnAdvice) {
  const auto told = [](int code) {
    return std::string(CheckDriver({.start_code = code, .device_file = true}).message());
  };
  EXPECT_THAT(told(34), HasSubstr("for linking"));
  EXPECT_THAT(told(802), HasSubstr("nvidia-fabricmanager"));
  EXPECT_THAT(told(803), HasSubstr("restart the machine"));
  EXPECT_THAT(told(999), AllOf(HasSubstr("cuInit: 999"), HasSubstr("nvidia-smi")));
}

TEST(CudaDriverTest, FilesOfTheSystemAreFacts) {
  const TempDir root;
  const DriverFacts none = ReadDriverFacts(root.path());
  EXPECT_FALSE(none.kernel_module || none.device_file);
  std::filesystem::create_directories(root.File("proc/driver/nvidia"));
  WriteFile(root.File("proc/driver/nvidia/version"), "NVRM version");
  std::filesystem::create_directories(root.File("dev"));
  WriteFile(root.File("dev/nvidiactl"), "");
  const DriverFacts some = ReadDriverFacts(root.path());
  EXPECT_TRUE(some.kernel_module && some.device_file);
  EXPECT_EQ(some.device_error, "");
  // A folder does not open for writing, whoever asks.
  std::filesystem::remove(root.File("dev/nvidiactl"));
  std::filesystem::create_directories(root.File("dev/nvidiactl"));
  const DriverFacts closed = ReadDriverFacts(root.path());
  EXPECT_TRUE(closed.devices > 0 || closed.device_error == "Is a directory") << closed.device_error;
}

}  // namespace
}  // namespace lorad
