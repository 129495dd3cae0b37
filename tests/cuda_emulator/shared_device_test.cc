// A device whose memory a pool and training share: what the pool withholds goes back to it, and comes again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <ATen/ops/empty.h>

#include "adapters/train/trainer.h"
#include "model/base/round_up.h"
#include "model/base/status_macros.h"
#include "model/memory/page_pool.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/virtual_memory.h"
#include "tests/device/device_bytes.h"
#include "tests/device/device_engine.h"
#include "tests/device/test_device.h"
#include "tests/support/status_matchers.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

constexpr int64_t kPage = 4096;

void IgnoreMoves(PageOwner) {}

std::unique_ptr<PagePool> PoolOf(int64_t pages) {
  return PagePool::Create(TestDeviceMemory().create(pages * kPage).value(), kPage).value();
}

void Write(PoolMemory& memory, std::byte* to, int64_t bytes, std::byte value) {
  const std::unique_ptr<PieceCopier> copier = memory.NewCopier().value();
  std::fill_n(copier->Next(bytes).value(), bytes, value);
  ASSERT_THAT(copier->Send(to), IsOk());
  ASSERT_THAT(copier->Finish(), IsOk());
}

// A device that has so many bytes beside what is in use, and a LibTorch that keeps what it had.
class SmallDevice final {
 public:
  explicit SmallDevice(size_t bytes_left) {
    emulator::SetDeviceBytes(emulator::UsedDeviceBytes() + bytes_left);
    emulator::KeepWhatTorchFrees(true);
  }
  ~SmallDevice() {
    emulator::KeepWhatTorchFrees(false);
    emulator::EmptyTorchCache();
    emulator::SetDeviceBytes(emulator::kMappedDeviceBytes);
  }
};

// A tensor that takes so many pages of the device, a power of two, with the red zone behind it.
at::Tensor TakePages(int64_t pages) {
  return at::empty({pages * kPage - 256}, at::TensorOptions().dtype(at::kByte).device(at::kCUDA, 0));
}

TEST(SharedDeviceTest, NobodyCanTouchWhatTheDeviceHas) {
  const std::unique_ptr<PagePool> pool = PoolOf(64);
  const size_t used = emulator::UsedDeviceBytes();
  ASSERT_THAT(pool->Withhold(40, IgnoreMoves), IsOk());
  EXPECT_EQ(used - emulator::UsedDeviceBytes(), size_t{40} * kPage);
  pool->memory().Move(pool->arena(), pool->arena() + 23 * kPage, kPage);
  EXPECT_DEATH(pool->memory().Move(pool->arena(), pool->arena() + 24 * kPage, kPage), "use-after-poison");
  ASSERT_THAT(pool->Withhold(0, IgnoreMoves), IsOk());
  EXPECT_EQ(emulator::UsedDeviceBytes(), used);
  pool->memory().Move(pool->arena(), pool->arena() + 24 * kPage, 40 * kPage);
}

TEST(SharedDeviceTest, PagesComeBackWhenTheDeviceHasThemAgain) {
  const std::unique_ptr<PagePool> pool = PoolOf(64);
  const SmallDevice full(/*bytes_left=*/0);
  ASSERT_THAT(pool->Withhold(40, IgnoreMoves), IsOk());
  at::Tensor trained = TakePages(16), kept = TakePages(8);
  trained.reset();  // LibTorch still has it
  ASSERT_THAT(pool->Withhold(0, IgnoreMoves), IsOk());
  EXPECT_EQ(pool->withheld_pages(), 8);
  EXPECT_EQ(pool->free_pages(), 64 - 8);
  EXPECT_EQ(emulator::FreeDeviceBytes(), 0u);
  kept.reset();
  ASSERT_THAT(pool->Withhold(0, IgnoreMoves), IsOk());
  EXPECT_EQ(pool->withheld_pages(), 0);
  EXPECT_EQ(emulator::FreeDeviceBytes(), 0u);
}

// A job that is cancelled while its memory is taken, at any turn of it.
TEST(SharedDeviceTest, WhatIsGivenUpHalfWayIsAllThereAgain) {
  constexpr PagePool::TurnBudget kTurn = {.bytes = 2 * kPage, .runs = 2, .chunks = 3};
  for (int turns = 0, end = 100; turns < end; ++turns) {
    const std::unique_ptr<PagePool> pool = PoolOf(64);
    std::vector<PageRun> adapters;
    for (int i = 0; i < 4; ++i) {
      adapters.push_back(pool->Reserve(5, PageOwner::kAdapter).value());
      Write(pool->memory(), adapters.back().data(), 5 * kPage, static_cast<std::byte>('a' + i));
    }
    const size_t used = emulator::UsedDeviceBytes();
    absl::StatusOr<bool> done = false;
    for (int i = 0; i <= turns && !*done; ++i) {
      done = pool->Withhold(40, kTurn, IgnoreMoves);
      ASSERT_THAT(done, IsOk());
      EXPECT_EQ(pool->free_pages(), 4);
    }
    if (*done) end = turns;
    for (done = false; !*done;) {
      done = pool->Withhold(0, kTurn, IgnoreMoves);
      ASSERT_THAT(done, IsOk());
    }
    EXPECT_EQ(pool->free_pages(), 44);
    EXPECT_EQ(pool->released_pages(), 0);
    EXPECT_EQ(emulator::UsedDeviceBytes(), used);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(Read(adapters[i].data(), 5 * kPage),
                std::vector<std::byte>(5 * kPage, static_cast<std::byte>('a' + i)));
    }
    pool->Compact(/*max_bytes=*/64 * kPage, IgnoreMoves);
    EXPECT_THAT(pool->Reserve(44, PageOwner::kKv), IsOk());
  }
}

TEST(SharedDeviceTest, AMemoryOfManyPagesHasFewChunks) {
  const auto small = TestDeviceMemory().create(100 * kPage).value();
  EXPECT_EQ(small->chunk_bytes(), kPage);
  const auto large = TestDeviceMemory().create(5000 * kPage).value();
  EXPECT_EQ(large->chunk_bytes(), 2 * kPage);
}

TEST(SharedDeviceTest, ADeviceThatCannotServesAllTheSame) {
  emulator::SetVirtualMemory(false);
  const std::unique_ptr<PagePool> pool = PoolOf(64);
  emulator::SetVirtualMemory(true);
  EXPECT_EQ(pool->memory().chunk_bytes(), 0);
  const size_t used = emulator::UsedDeviceBytes();
  ASSERT_THAT(pool->Withhold(40, IgnoreMoves), IsOk());
  EXPECT_EQ(pool->free_pages(), 24);  // counted all the same
  EXPECT_EQ(emulator::UsedDeviceBytes(), used);
  Write(pool->memory(), pool->arena(), 64 * kPage, std::byte{'a'});
  ASSERT_THAT(pool->Withhold(0, IgnoreMoves), IsOk());
  EXPECT_EQ(Read(pool->arena(), 64 * kPage), std::vector<std::byte>(64 * kPage, std::byte{'a'}));
}

// A serving engine and a job on one base and one device.
class SharedDeviceEngineTest : public testing::Test {
 protected:
  SharedDeviceEngineTest() : engine_(base_.model.get(), kBase, SetupOnDevice()) { engine_.Load("all_linear"); }

  // A whole job; `stepped` is told each step's loss.
  absl::Status Train(const std::function<void(double loss)>& stepped) const {
    TrainConfig config = SmallConfig(/*rank=*/32, /*steps=*/3);
    config.batch_size = config.micro_batch_size = 4;
    ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                     Trainer::Create(config, base_.model.get(), base_.tables, examples_));
    while (!trainer->done()) {
      ASSIGN_OR_RETURN(const std::optional<StepReport> step, trainer->Advance());
      if (step.has_value()) stepped(step->loss);
    }
    return absl::OkStatus();
  }
  absl::Status Hold(int64_t bytes) {
    const CommandAnswer answer = engine_.engine().HoldForTuning(bytes);
    engine_.engine().RunUntilIdle();
    return answer->value_or(absl::DeadlineExceededError("no answer"));
  }
  const PagePool& pages() { return *engine_.engine().parts().pages; }
  // The most that `act` takes beside what is in use.
  template <typename Act>
  size_t PeakOf(const Act& act) const {
    const size_t before = emulator::UsedDeviceBytes();
    emulator::TakePeakDeviceBytes();
    act();
    return emulator::TakePeakDeviceBytes() - before;
  }

  static constexpr char kBase[] = "llama3";
  const TrainBase base_ = LoadTrainBase(kBase);
  const ExampleSource examples_ = RandomExamples(9, 14, 5);
  const std::vector<GoldenCase> cases_ = CasesOf(kBase, {"", "all_linear"});
  DeviceEngine engine_;
};

TEST_F(SharedDeviceEngineTest, AJobTrainsInWhatServingGivesAwayAndServingGoesOnInTheRest) {
  std::vector<double> losses, expected;
  const size_t step_bytes = PeakOf([&] { engine_.ExpectAnswers(cases_); });
  const size_t job_bytes = PeakOf([&] { ASSERT_THAT(Train([&](double loss) { expected.push_back(loss); }), IsOk()); });
  const int64_t held_bytes = RoundUp(static_cast<int64_t>(job_bytes), pages().memory().chunk_bytes());
  ASSERT_LT(held_bytes, pages().total_pages() * pages().page_bytes());
  ASSERT_GT(job_bytes, step_bytes);

  const SmallDevice device(step_bytes);  // beside the pool
  EXPECT_EQ(Train([](double) {}).code(), absl::StatusCode::kResourceExhausted);
  ASSERT_THAT(Hold(held_bytes), IsOk());
  EXPECT_EQ(pages().released_pages() * pages().page_bytes(), held_bytes);
  ASSERT_THAT(Train([&](double loss) {
                losses.push_back(loss);
                engine_.ExpectAnswers(cases_);
              }),
              IsOk());
  EXPECT_EQ(losses, expected);
  ASSERT_THAT(Hold(0), IsOk());
  EXPECT_EQ(pages().withheld_pages(), 0);
  EXPECT_EQ(pages().released_pages(), 0);
  engine_.ExpectAnswers(cases_);
}

}  // namespace
}  // namespace lorad
