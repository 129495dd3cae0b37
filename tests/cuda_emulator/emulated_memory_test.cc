// What only an emulated device lets a test see: who touches its memory, and what happens when that is full.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ops/ones.h>

#include <cuda_runtime.h>

#include "model/causal_lm.h"
#include "model/ops/activate.h"
#include "tests/component/golden_base.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/last_error.h"
#include "tests/device/device_engine.h"
#include "tests/device/test_device.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

TEST(EmulatedDeviceMemoryTest, TheHostCannotTouchIt) {
  const at::Tensor ones = at::ones({4}, at::TensorOptions().device(at::kCUDA, 0));
  EXPECT_EQ(ones.cpu().const_data_ptr<float>()[3], 1.0f);
  EXPECT_DEATH(std::printf("%f", ones.const_data_ptr<float>()[3]), "SEGV");
}

// Ends in the test below whatever happens.
class FullDevice final {
 public:
  explicit FullDevice(size_t bytes_left) { emulator::SetDeviceBytes(emulator::UsedDeviceBytes() + bytes_left); }
  ~FullDevice() { emulator::SetDeviceBytes(emulator::kMappedDeviceBytes); }
};

TEST(EmulatedDeviceMemoryTest, WhatDoesNotFitIsAStatus) {
  const FullDevice full(/*bytes_left=*/size_t{64} << 10);
  const auto memory = TestDeviceMemory().create(int64_t{1} << 20);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(memory.status().message()), testing::HasSubstr("lower --memory-bytes"));
  EXPECT_EQ(CausalLm::Load(GoldenDir("llama3") + "/model", OnDevice()).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// A kernel is loaded where it is first launched, which takes memory. What a step then answers is told as LibTorch's
// own.
TEST(EmulatedDeviceMemoryTest, ALaunchWithoutMemoryIsAStatusWithAHint) {
  at::Tensor x = at::ones({2, 8}, at::TensorOptions().device(at::kCUDA, 0));
  const auto failing_by = [&](cudaError_t error) {
    emulator::failing_launches = 1, emulator::failing_error = error;
    const absl::Status status = Activate({x, Activation::kRelu, x});
    emulator::failing_error = cudaErrorInvalidConfiguration;
    EXPECT_NO_THROW(at::ones({2}, x.options()));  // nobody else is blamed
    return status;
  };
  const auto has = [](const char* text) { return testing::HasSubstr(text); };
  EXPECT_THAT(failing_by(cudaErrorMemoryAllocation),
              IsError(absl::StatusCode::kResourceExhausted,
                      testing::AllOf(has("Activate: CUDA: out of memory"), has("lower --memory-bytes"))));
  EXPECT_THAT(failing_by(cudaErrorInvalidConfiguration),
              IsError(absl::StatusCode::kInternal, testing::Not(has("--memory-bytes"))));
  EXPECT_THAT(Activate({x, Activation::kRelu, x}), IsOk());
}

TEST(EmulatedDeviceMemoryTest, AStepWithoutMemoryFailsAloneAndTheNextOneAnswers) {
  const std::string base = "llama3";
  const std::vector<GoldenCase> cases = CasesOf(base, {"all_linear"});
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  DeviceEngine engine(model.get(), base, SetupOnDevice());
  engine.Load("all_linear");
  {
    const FullDevice full(/*bytes_left=*/4096);
    const std::shared_ptr<Recording> recording = engine.engine().Submit(GoldenRequestOf(cases[0]));
    engine.engine().RunUntilIdle();
    const std::optional<Finish>& finish = recording->sequences()[0].finish;
    ASSERT_TRUE(finish.has_value());
    EXPECT_EQ(finish->status.code(), absl::StatusCode::kResourceExhausted) << finish->status;
  }
  engine.ExpectAnswers(cases);
}

}  // namespace
}  // namespace lorad
