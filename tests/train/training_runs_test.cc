#include "scheduler/tuning/training_runs.h"

#include <filesystem>
#include <map>
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

constexpr const char* kFromWeights = "from weights";
constexpr int64_t kWaitingBytes = 10'000;
constexpr int64_t kMostRows = 2000;
constexpr const char* kNarrow = "narrow";
constexpr const char* kTooWide = "too wide";

// Runs of rank 2 in a folder of their own, without a worker: the test is the trainer's thread.
class TrainingRunsTest : public testing::Test {
 protected:
  TrainingRunsTest() {
    auto revisions = Revisions::Open(dir_.File("jobs.db"), dir_.File("revisions"));
    EXPECT_THAT(revisions, IsOk());
    revisions_ = *std::move(revisions);
    Open();
  }

  // Where an operation's answer will be, once there is one.
  using Answer = std::shared_ptr<std::optional<absl::StatusOr<RunResult>>>;

  // As a daemon that begins.
  void Open() {
    runs_.reset();
    not_resumed_.clear();
    TrainingRuns::Parts parts;
    parts.dir = dir_.File("runs");
    parts.base_name = "base";
    parts.revisions = revisions_.get();
    parts.make = [this](const std::string&, bool, const GoOnFn&) {
      return TrainingRun::Create(SmallConfig(/*rank=*/2, /*steps=*/0), base_.model.get(), base_.tables);
    };
    parts.begins_from_weights = [](const std::string& spec) { return spec == kFromWeights; };
    parts.not_resumed = [this](const std::string& folder, const absl::Status&) { not_resumed_.push_back(folder); };
    parts.wake = [] {};
    parts.max_waiting_bytes = kWaitingBytes;
    parts.max_sequence_tokens = [](const std::string& spec) -> absl::StatusOr<int64_t> {
      if (spec == kTooWide) return absl::InvalidArgumentError("no room for one token");
      return spec == kNarrow ? 2 * kMostRows : kMostRows;
    };
    auto runs = TrainingRuns::Open(std::move(parts));
    ASSERT_THAT(runs, IsOk());
    runs_ = *std::move(runs);
  }

  absl::StatusOr<RunInfo> Create(const std::string& name, const std::string& spec = "spec") {
    return runs_->Create(name, /*sequence=*/1, [&] { return RunBeginning{.spec = spec, .weights = std::nullopt}; });
  }
  // As its operation 2.
  void SaveState(const std::string& id) {
    const Answer saved = Do(id, 2, OpOf(RunOpKind::kSaveState));
    EXPECT_TRUE(runs_->TakeMembers(/*rows=*/1, [](const auto& slice) { slice(); }).empty());
    ASSERT_TRUE(saved->has_value());
    EXPECT_THAT(**saved, IsOk());
  }
  std::string FolderOf(const std::string& id) const { return dir_.File("runs/" + id); }

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
  std::vector<std::string> not_resumed_;  // folders
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

TEST_F(TrainingRunsTest, ASequenceThatNeverFitsIsRefusedAtOnceAndTakesNoNumber) {
  const auto run = Create("long");
  ASSERT_THAT(run, IsOk());
  RunOp op;
  op.sequences.resize(2);
  op.sequences[0].token_ids.resize(kMostRows, 5);
  op.sequences[1].token_ids.resize(kMostRows + 1, 5);
  const Answer answer = Do(run->id, 2, op);
  ASSERT_TRUE(answer->has_value());
  EXPECT_THAT(**answer, IsError(absl::StatusCode::kInvalidArgument, HasSubstr("data[1]: tokens: 2001; limit: 2000")));
  SaveState(run->id);
}

TEST_F(TrainingRunsTest, ASequenceMayHaveWhatItsOwnRunHasMemoryFor) {
  const auto run = Create("wider limit", kNarrow);
  ASSERT_THAT(run, IsOk());
  RunOp op;
  op.sequences.resize(1);
  op.sequences[0].token_ids.resize(2 * kMostRows + 1, 5);
  const Answer answer = Do(run->id, 2, op);
  ASSERT_TRUE(answer->has_value());
  EXPECT_THAT(**answer, IsError(absl::StatusCode::kInvalidArgument, HasSubstr("tokens: 4001; limit: 4000")));
}

TEST_F(TrainingRunsTest, ARunThatHasMemoryForNoTokenIsRefusedAndLeavesNothing) {
  EXPECT_THAT(Create("none", kTooWide),
              IsError(absl::StatusCode::kInvalidArgument, HasSubstr("no room for one token")));
  EXPECT_TRUE(runs_->List().empty());
  EXPECT_EQ(runs_->held_bytes(), 0);
}

TEST_F(TrainingRunsTest, WhatCannotBeReadAtTheStartIsLeftAsItLiesAndGoesOnLater) {
  const auto run = Create("kept");
  ASSERT_THAT(run, IsOk());
  SaveState(run->id);
  const std::string folder = FolderOf(run->id);
  std::filesystem::create_directories(dir_.File("runs/lost+found"));
  for (const char* name : {"sequence", "name", "spec", "states/step-2/manifest.json"}) {
    SCOPED_TRACE(name);
    const std::filesystem::path file = folder + "/" + name;
    std::filesystem::rename(file, dir_.File("aside"));
    std::filesystem::create_symlink(file, file);  // "too many levels of symbolic links", also for root
    Open();
    EXPECT_THAT(not_resumed_, testing::ElementsAre(folder));
    const auto left = runs_->Get(run->id);
    ASSERT_THAT(left, IsOk());
    EXPECT_FALSE(left->left.ok());
    EXPECT_THAT(Create("kept"), IsError(absl::StatusCode::kUnavailable, HasSubstr("it stays in " + folder)));
    std::filesystem::remove(file);
    std::filesystem::rename(dir_.File("aside"), file);
    const auto again = Create("kept");
    ASSERT_THAT(again, IsOk());
    EXPECT_EQ(again->last_sequence, 2);
  }
  EXPECT_TRUE(std::filesystem::exists(dir_.File("runs/lost+found")));
}

TEST_F(TrainingRunsTest, WhatCannotGoOnIsListedWithItsReasonAndCanBeDeleted) {
  const auto broken = Create("broken"), whole = Create("whole");
  ASSERT_THAT(broken, IsOk());
  ASSERT_THAT(whole, IsOk());
  const std::filesystem::path spec = FolderOf(broken->id) + "/spec";
  std::filesystem::remove(spec);
  std::filesystem::create_symlink(spec, spec);  // "too many levels of symbolic links", also for root
  Open();
  std::map<std::string, RunInfo> listed;
  for (const RunInfo& run : runs_->List()) listed[run.id] = run;
  ASSERT_EQ(listed.size(), 2u);
  EXPECT_THAT(listed[whole->id].left, IsOk());
  EXPECT_EQ(listed[whole->id].name, "whole");
  EXPECT_EQ(listed[whole->id].last_sequence, 1);
  EXPECT_THAT(listed[broken->id].left, IsError(absl::StatusCode::kUnavailable, HasSubstr("spec")));
  const Answer refused = Do(broken->id, 2, OpOf(RunOpKind::kSaveState));
  ASSERT_TRUE(refused->has_value());
  EXPECT_THAT(**refused, IsError(absl::StatusCode::kFailedPrecondition, HasSubstr("DeleteRun")));
  EXPECT_THAT(runs_->Delete(broken->id), IsOk());
  EXPECT_FALSE(std::filesystem::exists(FolderOf(broken->id)));
  EXPECT_TRUE(absl::IsNotFound(runs_->Delete(broken->id)));
  EXPECT_EQ(runs_->List().size(), 1u);
  ASSERT_THAT(Create("broken"), IsOk());  // anew
}

TEST_F(TrainingRunsTest, WhatWasNeverAnsweredIsRemovedAndNotTakenForTheNextOnesOwn) {
  const auto run = Create("again");
  ASSERT_THAT(run, IsOk());
  SaveState(run->id);
  const std::string folder = FolderOf(run->id), states = dir_.File("states");
  std::filesystem::copy(folder + "/states", states, std::filesystem::copy_options::recursive);
  EXPECT_THAT(runs_->Delete(run->id), IsOk());
  // As an unfinished Create leaves it, in the same daemon and before its next start.
  std::filesystem::create_directories(folder);
  std::filesystem::copy(states, folder + "/states", std::filesystem::copy_options::recursive);
  ASSERT_THAT(Create("again"), IsOk());
  Open();
  const auto found = runs_->Get(run->id);
  ASSERT_THAT(found, IsOk());
  EXPECT_EQ(found->last_sequence, 1);
  std::filesystem::remove(folder + "/sequence");
  Open();
  EXPECT_FALSE(std::filesystem::exists(folder));
  EXPECT_TRUE(not_resumed_.empty());
}

TEST_F(TrainingRunsTest, ARunFromWeightsDoesNotGoOnWithFreshOnesWhenItsStatesAreGone) {
  const auto fresh = Create("fresh"), begun = Create("begun", kFromWeights);
  ASSERT_THAT(fresh, IsOk());
  ASSERT_THAT(begun, IsOk());
  for (const auto& run : {fresh, begun}) std::filesystem::remove_all(FolderOf(run->id) + "/states");
  Open();
  EXPECT_THAT(runs_->Get(fresh->id), IsOk());
  EXPECT_THAT(not_resumed_, testing::ElementsAre(FolderOf(begun->id)));
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
