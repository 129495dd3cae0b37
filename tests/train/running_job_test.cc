#include "scheduler/tuning/running_job.h"

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "scheduler/tuning/checkpoints.h"
#include "scheduler/tuning/job_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

// A job of four steps, each with a checkpoint, in a store of its own. It is driven as the worker does; an object that
// goes without having left is a kill.
class RunningJobTest : public testing::Test {
 protected:
  void SetUp() override {
    base_ = LoadTrainBase("llama3");
    auto store = JobStore::Open(dir_.File("jobs.db"));
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
    auto revisions = Revisions::Open(dir_.File("jobs.db"), dir_.File("revisions"));
    ASSERT_THAT(revisions, IsOk());
    revisions_ = *std::move(revisions);
    log_ = std::make_unique<JobLog>(store_.get(), [](const std::string&) {});
    surroundings_.jobs_dir = dir_.File("jobs");
    surroundings_.revisions = revisions_.get();
    surroundings_.plan = [this](const Job& job, const GoOnFn&) -> absl::StatusOr<TuningPlan> {
      ++plans_;
      TuningPlan plan;
      plan.trainer = MakeTrainer(base_, SmallConfig(/*rank=*/2, job.total_steps), RandomExamples(6, 8, 1));
      plan.checkpoint_every_steps = 1;
      plan.early_stopping_patience = 1;
      plan.keeps_beginning = keeps_beginning_;
      return plan;
    };
    surroundings_.publish = [](const std::string&, const std::string&, bool) { return absl::OkStatus(); };
    Job job;
    job.id = job.name = "job";
    job.total_steps = 4;
    job.state = JobState::kRunning;
    JobEvent event = EventOf(job, "");
    ASSERT_THAT(store_->Insert(job, &event), IsOk());
    ASSERT_THAT(MakeFolders(FileOf("")), IsOk());
  }
  std::string FileOf(const std::string& name) const { return absl::StrCat(dir_.File("jobs"), "/job/", name); }
  std::unique_ptr<RunningJob> Begin() {
    auto running = std::make_unique<RunningJob>(&surroundings_, log_.get(), *store_->Get("job"));
    EXPECT_THAT(running->Begin(), IsOk());
    return running;
  }
  static void Step(RunningJob& job) {
    absl::StatusOr<std::optional<StepReport>> report = std::optional<StepReport>();
    while (report.ok() && !report->has_value()) report = job.trainer()->Advance();
    ASSERT_THAT(report, IsOk());
    ASSERT_THAT(job.Record(**report), IsOk());
  }
  static void Evaluate(RunningJob& job, double loss) {
    StepReport report;
    report.step = job.job().step;
    report.eval_loss = loss;
    ASSERT_THAT(job.Record(report), IsOk());
  }

  int plans_ = 0;
  bool keeps_beginning_ = false;
  const TempDir dir_;
  TrainBase base_;
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<Revisions> revisions_;
  std::unique_ptr<JobLog> log_;
  JobSurroundings surroundings_;
};

TEST_F(RunningJobTest, AKillBehindAnEarlyStopLeavesTheBestToFinishWith) {
  std::string revision, remark;
  {
    const std::unique_ptr<RunningJob> killed = Begin();
    Step(*killed);
    Evaluate(*killed, 1.0);
    Step(*killed);
    Evaluate(*killed, 2.0);
    ASSERT_TRUE(killed->trainer()->done());
    ASSERT_THAT(killed->Finish(&remark), IsOk());
    revision = killed->job().revision;
  }
  EXPECT_NE(remark.find("the best is step 1"), std::string::npos) << remark;
  const std::unique_ptr<RunningJob> again = Begin();
  EXPECT_EQ(again->job().step, 2);
  Evaluate(*again, 2.0);
  ASSERT_TRUE(again->trainer()->done());
  ASSERT_THAT(again->Finish(&remark), IsOk());
  EXPECT_EQ(again->job().revision, revision);
  EXPECT_TRUE(std::filesystem::exists(revisions_->Folder(revision) + "/adapter_model.safetensors"));
  EXPECT_TRUE(std::filesystem::exists(FileOf("best")));
  again->LeaveAs(JobState::kSucceeded, remark);
  ASSERT_THAT(again->StoreLeaving(), IsOk());
  EXPECT_EQ(store_->Get("job")->revision, revision);
  EXPECT_FALSE(std::filesystem::exists(FileOf("best")));
}

TEST_F(RunningJobTest, ABeginningThatTakesLongIsKept) {
  keeps_beginning_ = true;
  Begin();
  EXPECT_TRUE(std::filesystem::exists(FileOf("checkpoints/step-0/manifest.json")));
  EXPECT_EQ(Begin()->job().step, 0);
  EXPECT_EQ(plans_, 2);  // one each
}

TEST_F(RunningJobTest, WithoutAnyWholeCheckpointTheTrainerIsMadeAnew) {
  {
    const std::unique_ptr<RunningJob> killed = Begin();
    Step(*killed);
  }
  WriteFile(FileOf("checkpoints/step-1/state.safetensors"), "torn");
  plans_ = 0;
  const std::unique_ptr<RunningJob> again = Begin();
  EXPECT_EQ(plans_, 2);  // the first was made to load a state
  EXPECT_EQ(again->job().step, 0);
  EXPECT_EQ(again->trainer()->steps(), 0);
}

TEST_F(RunningJobTest, ADamagedCheckpointIsSetAsideAndTheOneBeforeIsUsed) {
  {
    const std::unique_ptr<RunningJob> killed = Begin();
    for (int i = 0; i < 2; ++i) Step(*killed);
  }
  WriteFile(FileOf("checkpoints/step-2/state.safetensors"), "torn");
  EXPECT_EQ(Begin()->job().step, 1);
  EXPECT_TRUE(std::filesystem::exists(FileOf("checkpoints/damaged-2/state.safetensors")));
  EXPECT_FALSE(std::filesystem::exists(FileOf("checkpoints/step-2")));
}

TEST_F(RunningJobTest, ACheckpointThatCannotBeReadNowIsKept) {
  {
    const std::unique_ptr<RunningJob> killed = Begin();
    for (int i = 0; i < 2; ++i) Step(*killed);
  }
  for (const char* name : {"manifest.json", "state.safetensors"}) {
    SCOPED_TRACE(name);
    const std::filesystem::path file = FileOf(absl::StrCat("checkpoints/step-2/", name));
    std::filesystem::rename(file, dir_.File("aside"));
    std::filesystem::create_symlink(file, file);  // "too many levels of symbolic links", also for root
    RunningJob unread(&surroundings_, log_.get(), *store_->Get("job"));
    EXPECT_THAT(unread.Begin(),
                IsError(absl::StatusCode::kUnavailable, testing::HasSubstr("step 2 cannot be read now")));
    std::filesystem::remove(file);
    std::filesystem::rename(dir_.File("aside"), file);
    EXPECT_EQ(Begin()->job().step, 2);
  }
}

}  // namespace
}  // namespace lorad
