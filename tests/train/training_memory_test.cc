#include "scheduler/tuning/training_memory.h"

#include <cstdint>
#include <functional>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr int64_t kRoomBytes = 1000, kActivationBytes = 100;

// What is held of a room, for jobs and for runs.
class TrainingMemoryTest : public testing::Test {
 protected:
  TrainingMemoryTest()
      : memory_({.hold = [this](int64_t bytes, int64_t kept_bytes, std::function<void()>) -> absl::Status {
                   if (bytes > kRoomBytes) return absl::ResourceExhaustedError("no room");
                   held_ = {bytes, kept_bytes};
                   return absl::OkStatus();
                 },
                 .wanted = [] {},
                 .activation_bytes = kActivationBytes,
                 .runs = [this] { return run_bytes_; }}) {}

  using Held = std::pair<int64_t, int64_t>;
  int64_t run_bytes_ = 0;
  Held held_ = {0, 0};  // in all, and of them kept
  TrainingMemory memory_;
};

TEST_F(TrainingMemoryTest, RunsAreHeldBesideJobsAndKept) {
  ASSERT_THAT(memory_.Hold(300), IsOk());
  EXPECT_EQ(held_, Held(400, 0));
  run_bytes_ = 200;
  ASSERT_THAT(memory_.Update(), IsOk());
  EXPECT_EQ(held_, Held(600, 300));
  ASSERT_THAT(memory_.Hold(0), IsOk());
  EXPECT_EQ(held_, Held(300, 300));
  run_bytes_ = 0;
  ASSERT_THAT(memory_.Update(), IsOk());
  EXPECT_EQ(held_, Held(0, 0));
}

TEST_F(TrainingMemoryTest, TheLargestBatchOfAJobIsHeldWhereItIsMoreThanAny) {
  ASSERT_THAT(memory_.Hold({.state_bytes = 300, .batch_bytes = 60}), IsOk());
  EXPECT_EQ(held_, Held(400, 0));
  ASSERT_THAT(memory_.Hold({.state_bytes = 300, .batch_bytes = 250}), IsOk());
  EXPECT_EQ(held_, Held(550, 0));
}

TEST(TrainingMemoryOnDeviceTest, BatchesOfRunsAreHeldBesideThoseOfJobs) {
  std::pair<int64_t, int64_t> held;
  int64_t run_bytes = 0;
  TrainingMemory memory({.hold = [&](int64_t bytes, int64_t kept_bytes, std::function<void()>) -> absl::Status {
                           held = {bytes, kept_bytes};
                           return absl::OkStatus();
                         },
                         .wanted = [] {},
                         .activation_bytes = kActivationBytes,
                         .run_batch_bytes = 150,
                         .runs = [&] { return run_bytes; }});
  ASSERT_THAT(memory.Hold(300), IsOk());
  EXPECT_EQ(held, std::pair(int64_t{400}, int64_t{0}));
  run_bytes = 200;
  ASSERT_THAT(memory.Update(), IsOk());
  EXPECT_EQ(held, std::pair(int64_t{750}, int64_t{350}));
}

TEST_F(TrainingMemoryTest, WhatIsRefusedChangesNothing) {
  ASSERT_THAT(memory_.Hold(300), IsOk());
  run_bytes_ = 700;
  EXPECT_TRUE(absl::IsResourceExhausted(memory_.Update()));
  run_bytes_ = 0;
  EXPECT_TRUE(absl::IsResourceExhausted(memory_.Hold(950)));
  EXPECT_EQ(held_, Held(400, 0));
  run_bytes_ = 600;  // fits beside the 300
  ASSERT_THAT(memory_.Update(), IsOk());
  EXPECT_EQ(held_, Held(1000, 700));
}

// A pool that can never hold more than its room.
class TrainingMemoryOfAPoolTest : public testing::Test {
 protected:
  TrainingMemoryOfAPoolTest()
      : memory_({.hold = [](int64_t bytes, int64_t, std::function<void()>) -> absl::Status {
                   return bytes > kRoomBytes ? absl::InvalidArgumentError("never") : absl::OkStatus();
                 },
                 .wanted = [] {},
                 .activation_bytes = kActivationBytes,
                 .runs = [this] { return run_bytes_; }}) {}
  int64_t run_bytes_ = 0;
  TrainingMemory memory_;
};

TEST_F(TrainingMemoryOfAPoolTest, WhatNeverFitsIsToldApartFromWhatFitsWhenOthersHaveEnded) {
  EXPECT_TRUE(absl::IsInvalidArgument(memory_.Hold(kRoomBytes - kActivationBytes + 1)));
  ASSERT_THAT(memory_.Hold(kRoomBytes - kActivationBytes), IsOk());
  EXPECT_TRUE(absl::IsResourceExhausted(memory_.Hold(kRoomBytes)));  // a second job
  run_bytes_ = 100;
  const absl::Status beside_jobs = memory_.Update();
  EXPECT_TRUE(absl::IsResourceExhausted(beside_jobs)) << beside_jobs;
  EXPECT_THAT(beside_jobs.message(), testing::HasSubstr("bytes of jobs: 900; of runs: 200"));
  run_bytes_ = 0;
  ASSERT_THAT(memory_.Hold(0), IsOk());
  run_bytes_ = 100;
  ASSERT_THAT(memory_.Update(), IsOk());
  EXPECT_TRUE(absl::IsResourceExhausted(memory_.Hold(kRoomBytes - kActivationBytes)));  // a job beside a run
  run_bytes_ = kRoomBytes;
  ASSERT_THAT(memory_.Hold(0), IsError(absl::StatusCode::kInvalidArgument, "never"));  // runs alone
}

}  // namespace
}  // namespace lorad
