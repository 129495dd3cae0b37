// What LibTorch throws of a device, as a status.
#include "model/device_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

template <typename Fn>
absl::Status Thrown(const Fn& fn) {
  return GuardedOnDevice([&]() -> absl::Status {
    fn();
    return absl::OkStatus();
  });
}

[[noreturn]] void ThrowOfCuda(int code) {
  throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, code, "CUDA error: of this code");
}

TEST(GuardedOnDeviceTest, AMessageHasNoStackTrace) {
  const auto fails = []() -> absl::Status {
    TORCH_CHECK(false, "three is not four");
    return absl::OkStatus();
  };
  EXPECT_THAT(GuardedOnDevice(fails), IsError(absl::StatusCode::kInternal, HasSubstr("three is not four")));
  const absl::Status status = GuardedOnDevice(fails);
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("frame #")));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("Exception raised")));
}

TEST(GuardedOnDeviceTest, FullMemoryIsResourceExhaustedWhoeverSaysIt) {
  const auto full = [](const char* whose) {
    return IsError(absl::StatusCode::kResourceExhausted, testing::AllOf(HasSubstr(whose), HasSubstr("--memory-bytes")));
  };
  EXPECT_THAT(Thrown([] { ThrowOfCuda(/*cudaErrorMemoryAllocation*/ 2); }), full("of this code"));
  EXPECT_THAT(Thrown([] { TORCH_CHECK_WITH(OutOfMemoryError, false, "tried to allocate"); }),
              full("tried to allocate"));
  EXPECT_THAT(Thrown([] { TORCH_CHECK(false, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"); }),
              full("cublasCreate"));
}

TEST(GuardedOnDeviceTest, OtherErrorsOfADeviceAreInternal) {
  EXPECT_THAT(Thrown([] { ThrowOfCuda(/*cudaErrorIllegalAddress*/ 700); }),
              IsError(absl::StatusCode::kInternal, HasSubstr("of this code")));
}

}  // namespace
}  // namespace lorad
