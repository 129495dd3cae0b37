// What making and loading a job asks of the emulated device: in turns, and nothing outside of them.
#include "adapters/train/device_turns.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include "adapters/kinds/kind.h"
#include "adapters/train/in_device_turn.h"
#include "adapters/train/trainer.h"
#include "adapters/train/training_run.h"
#include "model/base/file_source.h"
#include "model/ops/pieces.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

// Counts who touches the device's memory within turns.
class CountedTurns final {
 public:
  CountedTurns()
      : turns_([this](const std::function<void()>& slice) {
          const int64_t before = emulator::DeviceAccesses();
          slice();
          inside_ += emulator::DeviceAccesses() - before;
          ++count_;
        }) {}
  int64_t count() const { return count_; }
  int64_t inside() const { return inside_; }
  int64_t all() const { return emulator::DeviceAccesses() - first_; }

 private:
  const int64_t first_ = emulator::DeviceAccesses();
  int64_t count_ = 0;
  int64_t inside_ = 0;
  const DeviceTurns turns_;
};

// Made, stepped, saved, and made again to load that; twice from weights.
void ExpectInTurns(const TrainBase& base, TrainConfig config) {
  const TempDir dir;
  const ExampleSource examples = RandomExamples(4, 10, 1);
  config.batch_size = config.micro_batch_size = 2;
  const auto trainer = MakeTrainer(base, config, examples);
  for (bool stepped = false; !stepped;) {
    const auto slice = trainer->Advance();
    ASSERT_THAT(slice, IsOk());
    stepped = slice->has_value();
  }
  ASSERT_THAT(trainer->SaveState(dir.File("state")), IsOk());
  ASSERT_THAT(trainer->SaveAdapter(dir.path(), "base"), IsOk());
  const auto image = ReadAdapter(dir.path(), base.model->base_shape(), *LocalFiles(), {.base_tables = base.tables});
  ASSERT_THAT(image, IsOk());
  const CountedTurns turns;
  auto made = Trainer::Create(config, base.model.get(), base.tables, examples);
  ASSERT_THAT(made, IsOk());
  EXPECT_GT(turns.inside(), 0);
  EXPECT_EQ(turns.inside(), turns.all());
  const int64_t of_making = turns.count();
  ASSERT_THAT((*made)->LoadState(dir.File("state")), IsOk());
  EXPECT_GT(turns.count(), of_making);
  EXPECT_EQ(turns.inside(), turns.all());
  if (TakesOffBase(config.init)) return;  // its file has twice the rank
  const int64_t of_loading = turns.count();
  ASSERT_THAT((*made)->CopyFrom(*image), IsOk());
  EXPECT_GT(turns.count(), of_loading);
  EXPECT_EQ(turns.inside(), turns.all());
}

TEST(DeviceTurnsTest, NothingThatMakesOrLoadsAJobTouchesTheDeviceOutsideOfATurn) {
  const TrainBase base = LoadTrainBase("llama3");
  TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/3);
  ExpectInTurns(base, config);
  config.adapter.use_dora = true;  // whose norms are of the whole base
  ExpectInTurns(base, config);
  config.init = LeafInit::kPissa;
  ExpectInTurns(base, config);
  config = SmallConfig(/*rank=*/2, /*steps=*/3);
  config.adapter.modules_to_save = {"norm", "embed_tokens"};
  ExpectInTurns(base, config);
  config = SmallConfig(/*rank=*/2, /*steps=*/3);
  config.routed = SmallRouting("mixlora");
  ExpectInTurns(base, config);
}

TEST(DeviceTurnsTest, WhatIsLargeIsSentInPieces) {
  const at::Device device(at::kCUDA, 0);
  const at::Tensor numbers = at::arange((int64_t{5} << 19), at::kFloat).view({5, -1});
  int64_t pieces = 0, products = 0, most = 0;
  const PieceListener listener([&](int64_t of_piece) {
    ++pieces;
    products += of_piece;
    most = std::max(most, of_piece);
  });
  EXPECT_TRUE(SentTo(device, numbers).cpu().equal(numbers));
  EXPECT_EQ(pieces, 3);
  EXPECT_EQ(most, 2 * products / 5);
  EXPECT_TRUE(SentTo(device, numbers.t()).cpu().equal(numbers.t()));
}

TEST(DeviceTurnsTest, ATurnEndsWithTheErrorOfWhatWasDoneInIt) {
  int turns = 0;
  const at::Device device(at::kCUDA, 0);
  const auto full = [] { return absl::ResourceExhaustedError("full"); };
  {
    const DeviceTurns counted([&](const std::function<void()>& slice) {
      slice();
      ++turns;
    });
    EXPECT_TRUE(absl::IsResourceExhausted(InDeviceTurn(device, full)));
    EXPECT_EQ(turns, 1);
    EXPECT_TRUE(absl::IsResourceExhausted(InDeviceTurn(at::kCPU, full)));
    EXPECT_EQ(turns, 1);
    EXPECT_TRUE(absl::IsInternal(InDeviceTurn(device, []() -> absl::Status { throw std::runtime_error("thrown"); })));
    EXPECT_EQ(turns, 2);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(InDeviceTurn(device, full)));
  EXPECT_EQ(turns, 2);
}

}  // namespace
}  // namespace lorad
