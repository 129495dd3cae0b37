// Training on the emulated device beside the same on the CPU. What it trains, and to which losses, the tests of
// tests/train say, which run here too (trains_on_device.cc).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include "adapters/train/pair_delta.h"
#include "adapters/train/trainer.h"
#include "model/copy_aside.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/torch_device.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

TrainBase OnCpu(DType dtype) {
  const at::Device device = std::exchange(TrainDevice(), at::Device(at::kCPU));
  TrainBase base = LoadTrainBase("llama3", dtype);
  TrainDevice() = device;
  return base;
}

TrainConfig ConfigOf(int64_t steps) {
  TrainConfig config = SmallConfig(/*rank=*/4, steps);
  config.adapter.use_dora = true;
  config.dropout = 0.1;
  config.batch_size = config.micro_batch_size = 4;
  return config;
}

StepReport NextStep(Trainer& trainer) {
  while (true) {
    const auto slice = trainer.Advance();
    EXPECT_THAT(slice, IsOk());
    if (!slice.ok()) return {};
    if (slice->has_value()) return **slice;
  }
}

void ExpectNear(const StepReport& step, const StepReport& expected, double tolerance) {
  EXPECT_EQ(step.step, expected.step);
  EXPECT_NEAR(step.loss, expected.loss, tolerance * expected.loss) << "step " << step.step;
  EXPECT_NEAR(step.grad_norm, expected.grad_norm, 100 * tolerance * expected.grad_norm) << "step " << step.step;
}

TEST(EmulatedTrainingTest, AJobGoesOnOnTheDeviceAndBackOnTheCpu) {
  const TempDir dir;
  const TrainBase host = OnCpu(DType::kF32), device = LoadTrainBase("llama3");
  ASSERT_TRUE(device.model->device().is_cuda());
  const ExampleSource examples = RandomExamples(9, 14, 1);
  const TrainConfig config = ConfigOf(/*steps=*/9);
  const auto undisturbed = MakeTrainer(host, config, examples);
  std::unique_ptr<Trainer> trainer;
  for (const TrainBase* base : {&host, &device, &host}) {
    auto next = MakeTrainer(*base, config, examples);
    if (trainer != nullptr) {
      ASSERT_THAT(trainer->SaveState(dir.File("state")), IsOk());
      ASSERT_THAT(next->LoadState(dir.File("state")), IsOk());
    }
    trainer = std::move(next);
    for (int i = 0; i < 3; ++i) ExpectNear(NextStep(*trainer), NextStep(*undisturbed), 1e-5);
  }
  EXPECT_TRUE(trainer->done());
}

TEST(EmulatedTrainingTest, ABaseInBf16TrainsLeavesInF32AsOnTheCpu) {
  const TempDir dir;
  const TrainBase host = OnCpu(DType::kBF16), device = LoadTrainBase("llama3", DType::kBF16);
  const ExampleSource examples = RandomExamples(9, 14, 2);
  const TrainConfig config = ConfigOf(/*steps=*/10);
  const auto on_host = MakeTrainer(host, config, examples), on_device = MakeTrainer(device, config, examples);
  for (int i = 0; i < 10; ++i) {
    const StepReport expected = NextStep(*on_host);
    EXPECT_NEAR(NextStep(*on_device).loss, expected.loss, 5e-3 * expected.loss);
  }
  ASSERT_THAT(on_device->SaveState(dir.File("state")), IsOk());
  EXPECT_THAT(MakeTrainer(host, config, examples)->LoadState(dir.File("state")), IsOk());  // which wants all f32
}

TEST(EmulatedTrainingTest, DropoutDropsWhatItDoesOnTheCpuByMasksOfAByteAnElement) {
  MicroBatchPart part;
  part.dropout = 0.25;
  part.dropout_seed = 7;
  LeafModule module;
  module.layer = 1;
  const at::Tensor x = at::arange(1, 6001, at::TensorOptions().dtype(at::kFloat)).view({60, 100});
  const at::Tensor on_cpu = x.clone().requires_grad_(), on_device = x.to(TrainDevice()).requires_grad_();
  const int64_t before = emulator::BytesFromHost();
  const at::Tensor dropped = Dropped(on_device, part, module);
  EXPECT_LE(emulator::BytesFromHost() - before, x.numel());  // one an element
  const at::Tensor expected = Dropped(on_cpu, part, module);
  EXPECT_TRUE(dropped.detach().cpu().allclose(expected.detach(), 1e-6, 0.0));
  const int64_t zeros = (expected == 0).sum().item<int64_t>();
  EXPECT_GT(zeros, 1300);
  EXPECT_LT(zeros, 1700);
  dropped.sum().backward();
  expected.sum().backward();
  EXPECT_TRUE(on_device.grad().cpu().allclose(on_cpu.grad(), 1e-6, 0.0));
}

// Rows of several experts are put together in one order, whatever the order of the device's threads.
TEST(EmulatedTrainingTest, ARoutedBaseTrainsToTheSameBitsAgain) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const TrainBase base = LoadTrainBase("qwen2_moe", dtype);
    ASSERT_GT(base.model->config().routed.experts_per_token, 2);  // two numbers have one sum
    const ExampleSource examples = RandomExamples(9, 14, 5);
    const auto first = MakeTrainer(base, ConfigOf(/*steps=*/4), examples);
    const auto second = MakeTrainer(base, ConfigOf(/*steps=*/4), examples);
    while (!first->done()) ExpectNear(NextStep(*second), NextStep(*first), 0.0);
  }
}

TEST(EmulatedTrainingTest, AJobOfThreeExpertsARowTrainsToTheSameBitsAgain) {
  const TrainBase base = LoadTrainBase("llama3");
  const ExampleSource examples = RandomExamples(9, 14, 6);
  TrainConfig config = ConfigOf(/*steps=*/4);
  config.adapter.use_dora = false;
  config.dropout = 0.0;
  config.routed = SmallRouting("mixlora");
  config.routed->moe.routing.top_k = 3;
  const auto first = MakeTrainer(base, config, examples), second = MakeTrainer(base, config, examples);
  while (!first->done()) ExpectNear(NextStep(*second), NextStep(*first), 0.0);
}

// The losses of all rows together, and the norms of all gradients.
TEST(EmulatedTrainingTest, AStepCopiesTwiceToTheHost) {
  const TrainBase base = LoadTrainBase("llama3");
  const auto trainer = MakeTrainer(base, ConfigOf(/*steps=*/4), RandomExamples(9, 14, 3));
  while (!trainer->done()) {
    const int64_t before = emulator::CopiesToHost();
    NextStep(*trainer);
    ASSERT_EQ(emulator::CopiesToHost() - before, 2);
  }
}

TEST(EmulatedTrainingTest, ACheckpointsCopiesAreNotOnTheStreamThatServes) {
  const TempDir dir;
  const TrainBase base = LoadTrainBase("llama3");
  const auto trainer = MakeTrainer(base, ConfigOf(/*steps=*/4), RandomExamples(9, 14, 3));
  NextStep(*trainer);
  const int64_t before = emulator::CopiesToHost(), aside_before = emulator::CopiesToHostAside();
  ASSERT_THAT(trainer->SaveState(dir.File("state")), IsOk());
  EXPECT_GT(emulator::CopiesToHost(), before);
  EXPECT_EQ(emulator::CopiesToHostAside() - aside_before, emulator::CopiesToHost() - before);
}

// Of several pieces, and none.
TEST(EmulatedTrainingTest, WhatIsCopiedAsideIsWhatIsThere) {
  const at::Device device(at::kCUDA, 0);
  const at::Tensor numbers = at::arange(3 << 20, at::kFloat).view({3, -1});
  EXPECT_TRUE(CopyAside(numbers.to(device)).equal(numbers));
  EXPECT_TRUE(CopyAside(numbers.to(device).t()).equal(numbers.t()));
  EXPECT_EQ(CopyAside(at::empty({0, 4}, at::TensorOptions().device(device))).numel(), 0);
}

TEST(EmulatedTrainingTest, AStepWithoutMemoryIsAStatusAndDoneAnewItIsAsEver) {
  const TrainBase base = LoadTrainBase("llama3");
  const ExampleSource examples = RandomExamples(9, 14, 4);
  const auto calm = MakeTrainer(base, ConfigOf(/*steps=*/4), examples);
  const auto trainer = MakeTrainer(base, ConfigOf(/*steps=*/4), examples);
  for (int slices_before = 0; !trainer->done(); ++slices_before) {
    // Each step somewhere else.
    for (int i = 0; i < slices_before; ++i) ASSERT_THAT(trainer->Advance(), IsOk());
    emulator::SetDeviceBytes(emulator::UsedDeviceBytes() + 1024);
    absl::Status status;
    while (status.ok() && !trainer->done()) status = trainer->Advance().status();
    emulator::SetDeviceBytes(emulator::kMappedDeviceBytes);
    ASSERT_THAT(status, IsError(absl::StatusCode::kResourceExhausted, testing::HasSubstr("the device's memory")));
    trainer->DropStep();
    ExpectNear(NextStep(*trainer), NextStep(*calm), 0.0);
  }
}

}  // namespace
}  // namespace lorad
