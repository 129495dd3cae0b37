#include "scheduler/tuning/training_runs.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

using testing::HasSubstr;

RunOp OpOf(RunOpKind kind) {
  RunOp op;
  op.kind = kind;
  return op;
}

constexpr int64_t kWaitingBytes = 10'000;

// Runs of rank 2 in a folder of their own, without a worker: the test is the trainer's thread.
class TrainingRunsTest : public testing::Test {
 protected:
  TrainingRunsTest() {
    auto revisions = Revisions::Open(dir_.File("jobs.db"), dir_.File("revisions"));
    EXPECT_THAT(revisions, IsOk());
    revisions_ = *std::move(revisions);
    Open();
  }

  // As a daemon that begins.
  void Open() {
    runs_.reset();
    TrainingRuns::Parts parts;
    parts.dir = dir_.File("runs");
    parts.base_name = "base";
    parts.revisions = revisions_.get();
    parts.make = [this](const std::string&) {
      return TrainingRun::Create(SmallConfig(/*rank=*/2, /*steps=*/0), base_.model.get(), base_.tables);
    };
    parts.wake = [] {};
    parts.max_waiting_bytes = kWaitingBytes;
    auto runs = TrainingRuns::Open(std::move(parts));
    ASSERT_THAT(runs, IsOk());
    runs_ = *std::move(runs);
  }

  absl::StatusOr<RunInfo> Create(const std::string& name) {
    return runs_->Create(name, /*sequence=*/1, [] { return RunBeginning{.spec = "spec", .weights = std::nullopt}; });
  }

  // Where the operation's answer will be, once there is one.
  using Answer = std::shared_ptr<std::optional<absl::StatusOr<RunResult>>>;
  Answer Do(const std::string& id, int64_t sequence, RunOp op) {
    auto answer = std::make_shared<std::optional<absl::StatusOr<RunResult>>>();
    runs_->Do(id, sequence, std::move(op), [answer](absl::StatusOr<RunResult> result) {
      EXPECT_FALSE(answer->has_value()) << "answered twice";
      answer->emplace(std::move(result));
    });
    return answer;
  }

  const TempDir dir_;
  const TrainBase base_ = LoadTrainBase("llama3");
  std::unique_ptr<Revisions> revisions_;
  std::unique_ptr<TrainingRuns> runs_;
};

TEST_F(TrainingRunsTest, WhatStillWaitsAtTheEndIsAnsweredAndNothingIsTakenAnyMore) {
  const auto run = Create("gap");
  ASSERT_THAT(run, IsOk());
  const Answer behind_a_gap = Do(run->id, 3, OpOf(RunOpKind::kSaveState));
  const Answer next = Do(run->id, 2, OpOf(RunOpKind::kSaveState));
  EXPECT_FALSE(behind_a_gap->has_value() || next->has_value());
  runs_->Stop();
  const Answer late = Do(run->id, 4, OpOf(RunOpKind::kSaveState));
  for (const Answer& answer : {behind_a_gap, next, late}) {
    ASSERT_TRUE(answer->has_value());
    EXPECT_THAT(**answer, IsError(absl::StatusCode::kUnavailable, HasSubstr("the daemon ends")));
  }
  EXPECT_FALSE(runs_->has_work());
}

// `rows` of one sequence.
RunOp LearnOp(size_t rows) {
  RunOp op;
  op.sequences.push_back({std::vector<int32_t>(rows, 5), std::vector<int32_t>(rows, 6)});
  return op;
}

TEST_F(TrainingRunsTest, WhatWaitsOfAllRunsTogetherIsBoundedInBytes) {
  const auto one = Create("one"), other = Create("other");
  ASSERT_THAT(one, IsOk());
  ASSERT_THAT(other, IsOk());
  EXPECT_FALSE(Do(one->id, 3, LearnOp(100))->has_value());
  const Answer refused = Do(other->id, 3, LearnOp(100));
  ASSERT_TRUE(refused->has_value());
  EXPECT_THAT(**refused, IsError(absl::StatusCode::kResourceExhausted, HasSubstr("beside others that wait")));
  const Answer next = Do(other->id, 2, LearnOp(100));  // waits for nobody
  EXPECT_FALSE(next->has_value());
  runs_->Stop();
}

}  // namespace
}  // namespace lorad
