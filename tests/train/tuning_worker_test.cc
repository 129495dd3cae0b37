#include "scheduler/tuning/tuning_worker.h"

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "adapters/train/synced_file.h"
#include "scheduler/compute_gate.h"
#include "scheduler/tuning/checkpoints.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

constexpr int64_t kStateBytes = 1000;  // as the worker is told

// A worker over a real store and model in a folder of its own; a job's spec is its number of steps.
class WorkerTest : public testing::Test {
 protected:
  WorkerTest() : base_(LoadTrainBase("llama3")) {
    auto store = JobStore::Open(dir_.File("jobs.db"));
    EXPECT_THAT(store, IsOk());
    store_ = *std::move(store);
    auto revisions = Revisions::Open(dir_.File("jobs.db"), dir_.File("revisions"));
    EXPECT_THAT(revisions, IsOk());
    revisions_ = *std::move(revisions);
    OpenRuns();
    TuningWorker::Parts parts;
    parts.store = store_.get();
    parts.gate = &gate_;
    parts.model = base_.model.get();
    parts.max_jobs = 4;
    parts.max_batch_rows = 1000;
    parts.hold = [this](int64_t bytes, int64_t, std::function<void()> give_back) -> absl::Status {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (bytes > most_bytes_) return absl::InvalidArgumentError("more than there is");
      if (bytes > memory_bytes_) return absl::ResourceExhaustedError("no room");
      held_bytes_ = bytes;
      give_back_ = std::move(give_back);
      return absl::OkStatus();
    };
    parts.surroundings.jobs_dir = dir_.File("jobs");
    parts.surroundings.revisions = revisions_.get();
    parts.surroundings.bytes = [](const Job&) { return JobBytes{kStateBytes, 0}; };
    parts.surroundings.plan = [this](const Job& job, const GoOnFn& go_on) -> absl::StatusOr<TuningPlan> {
      ++plans_;
      if (job.name == "slow") {
        while (go_on().ok()) std::this_thread::yield();
        return go_on();
      }
      TuningPlan plan;
      TrainConfig config = SmallConfig(2, job.total_steps);
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        config.base_digest = base_digest_;
      }
      ExampleSource examples = RandomExamples(6, 8, 1);
      if (job.name == "unreadable") {
        examples.get = [](int64_t) -> absl::StatusOr<Example> { return absl::DataLossError("examples: gone"); };
      }
      plan.trainer = MakeTrainer(base_, config, examples);
      plan.checkpoint_every_steps = 2;
      return plan;
    };
    parts.surroundings.publish = [this](const std::string&, const std::string&, bool) { return publish_status_; };
    parts.runs = runs_.get();
    parts.changed = [this](const std::string&) {
      const std::lock_guard<std::mutex> lock(mutex_);
      changed_.notify_all();
    };
    worker_ = std::make_unique<TuningWorker>(std::move(parts));
    EXPECT_THAT(worker_->Start(), IsOk());
  }
  ~WorkerTest() override { worker_->Stop(); }

  void OpenRuns() {
    TrainingRuns::Parts parts;
    parts.dir = dir_.File("runs");
    parts.revisions = revisions_.get();
    parts.make = [this](const std::string&, bool, const GoOnFn&) {
      return TrainingRun::Create(SmallConfig(/*rank=*/3, /*steps=*/0), base_.model.get(), base_.tables);
    };
    parts.begins_from_weights = [](const std::string&) { return false; };
    parts.not_resumed = [](const std::string& folder, const absl::Status& why) { ADD_FAILURE() << folder << why; };
    parts.wake = [this] { worker_->Wake(); };
    auto runs = TrainingRuns::Open(std::move(parts));
    ASSERT_THAT(runs, IsOk());
    runs_ = *std::move(runs);
  }

  void Accept(const std::string& id, int64_t steps) {
    Job job;
    job.id = id;
    job.name = id;
    job.total_steps = steps;
    EXPECT_THAT(MakeFolders(worker_->JobFolder(id)), IsOk());
    EXPECT_THAT(worker_->Accept(job, ""), IsOk());
  }
  template <typename Condition>
  Job Await(const std::string& id, const Condition& condition) {
    std::unique_lock<std::mutex> lock(mutex_);
    std::optional<Job> job;
    changed_.wait(lock, [&] {
      job = *store_->Get(id);
      return condition(*job);
    });
    return *job;
  }
  Job AwaitFinish(const std::string& id) {
    return Await(id, [](const Job& job) { return IsFinished(job.state); });
  }
  // The reply, once there is one.
  TuningWorker::Reply KeepReply() {
    return [this](absl::StatusOr<Job> job) {
      const std::lock_guard<std::mutex> lock(mutex_);
      reply_ = std::move(job);
      changed_.notify_all();
    };
  }
  absl::StatusOr<Job> AwaitReply() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return reply_.has_value(); });
    return *reply_;
  }
  bool HasReply() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return reply_.has_value();
  }

  const TempDir dir_;
  const TrainBase base_;
  ComputeGate gate_{0.0};
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<Revisions> revisions_;
  absl::Status publish_status_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<absl::StatusOr<Job>> reply_;
  std::string base_digest_ = "one";
  int64_t most_bytes_ = int64_t{1} << 40;
  int64_t memory_bytes_ = int64_t{1} << 40;
  int64_t held_bytes_ = 0;
  std::atomic<int> plans_ = 0;
  std::function<void()> give_back_;
  std::unique_ptr<TrainingRuns> runs_;
  std::unique_ptr<TuningWorker> worker_;
};

TEST_F(WorkerTest, PauseOfARunningJobReturnsBeforeItsSliceCanEnd) {
  Accept("job", 1'000'000);
  Await("job", [](const Job& job) { return job.step >= 3; });
  {
    const ComputeGate::Turn serving = gate_.EnterServing();  // no slice begins, and so none ends
    worker_->Pause("job", KeepReply());                      // would hang here if it waited for one
  }
  const absl::StatusOr<Job> paused = AwaitReply();
  ASSERT_THAT(paused, IsOk());
  EXPECT_EQ(paused->state, JobState::kPaused);
  EXPECT_EQ(store_->Get("job")->state, JobState::kPaused);
  EXPECT_TRUE(std::filesystem::exists(
      absl::StrCat(worker_->JobFolder("job"), "/checkpoints/step-", paused->step, "/manifest.json")));
}

TEST_F(WorkerTest, CancelWinsOverPauseAndBothAreAnswered) {
  Accept("job", 1'000'000);
  Await("job", [](const Job& job) { return job.step >= 1; });
  std::optional<JobState> first;
  {
    const ComputeGate::Turn serving = gate_.EnterServing();
    worker_->Cancel("job", [&](absl::StatusOr<Job> job) { first = job.ok() ? job->state : JobState::kFailed; });
    worker_->Pause("job", KeepReply());
  }
  ASSERT_THAT(AwaitReply(), IsOk());  // answered in the order of asking
  EXPECT_EQ(first, JobState::kCancelled);
  EXPECT_EQ(AwaitReply()->state, JobState::kCancelled);
}

TEST_F(WorkerTest, AChangeOfAWaitingJobIsAnsweredAtOnce) {
  worker_->Pause("nobody", KeepReply());
  ASSERT_TRUE(HasReply());
  EXPECT_TRUE(absl::IsNotFound(AwaitReply().status()));
}

TEST_F(WorkerTest, WhatCannotBePublishedIsKeptAndTheJobSaysSo) {
  publish_status_ = absl::ResourceExhaustedError("no room");
  Accept("job", 3);
  const Job job = AwaitFinish("job");
  EXPECT_EQ(job.state, JobState::kSucceeded);
  EXPECT_NE(job.reason.find("not served: RESOURCE_EXHAUSTED: no room"), std::string::npos) << job.reason;
  EXPECT_EQ(job.revision, "");
  const auto made = revisions_->Of("job");
  ASSERT_THAT(made, IsOk());
  ASSERT_EQ(made->size(), 1u);
  EXPECT_TRUE(std::filesystem::exists(revisions_->Folder((*made)[0]) + "/adapter_model.safetensors"));
  EXPECT_TRUE(absl::IsNotFound(revisions_->Current("job").status()));  // the name means what it meant
}

TEST_F(WorkerTest, AJobThatFitsAloneWaitsForTheOneBesideIt) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    most_bytes_ = kStateBytes;
  }
  Accept("first", 300);
  Await("first", [](const Job& job) { return job.step >= 3; });
  Accept("second", 4);
  Await("second", [](const Job& job) { return job.reason.find("waits for memory") != std::string::npos; });
  EXPECT_EQ(AwaitFinish("first").state, JobState::kSucceeded);
  const Job second = AwaitFinish("second");
  EXPECT_EQ(second.state, JobState::kSucceeded) << second.reason;
}

TEST_F(WorkerTest, AJobGivesItsMemoryBackAndGoesOnWhereItWasWhenThereIsRoom) {
  Accept("calm", 150);
  const Job calm = AwaitFinish("calm");
  Accept("job", 150);
  Await("job", [](const Job& job) { return job.step >= 3; });
  std::function<void()> give_back;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_EQ(held_bytes_, kStateBytes);
    memory_bytes_ = 0;
    give_back = give_back_;
  }
  give_back();
  const Job back = Await("job", [](const Job& job) { return job.state == JobState::kQueued; });
  EXPECT_NE(back.reason.find("gave its memory to requests"), std::string::npos) << back.reason;
  Await("job", [](const Job& job) { return job.reason.find("waits for memory") != std::string::npos; });
  EXPECT_EQ(plans_, 2);  // of `calm` and of the job's first time: nothing is made before there is room
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_EQ(held_bytes_, 0);
    memory_bytes_ = int64_t{1} << 40;
  }
  const Job job = AwaitFinish("job");
  EXPECT_EQ(job.state, JobState::kSucceeded) << job.reason;
  EXPECT_EQ(job.last_loss, calm.last_loss);
  EXPECT_EQ(job.trained_tokens, calm.trained_tokens);
}

TEST_F(WorkerTest, OneOfManyJobsIsCancelledAndTheOthersEndWithTheLossesOfEachAlone) {
  Accept("alone", 40);
  const Job alone = AwaitFinish("alone");
  Accept("long", 1'000'000);
  Accept("a", 40);
  Accept("b", 40);
  Await("b", [](const Job& job) { return job.step >= 2; });
  worker_->Cancel("long", KeepReply());
  EXPECT_EQ(AwaitReply()->state, JobState::kCancelled);
  for (const char* id : {"a", "b"}) {
    const Job job = AwaitFinish(id);
    EXPECT_EQ(job.state, JobState::kSucceeded) << job.reason;
    EXPECT_NEAR(job.last_loss, alone.last_loss, 1e-5 * alone.last_loss);
    EXPECT_EQ(job.trained_tokens, alone.trained_tokens);
  }
}

TEST_F(WorkerTest, AJobWhoseExamplesCannotBeReadEndsAloneAndNoRunLosesItsGradients) {
  const auto run = runs_->Create("run", /*sequence=*/1, [] { return RunBeginning{}; });
  ASSERT_THAT(run, IsOk());
  std::vector<absl::StatusOr<RunResult>> results;  // under mutex_
  const auto learn = [&](int64_t sequence) {
    RunOp op;
    op.sequences.resize(1);
    op.sequences[0].token_ids = {5, 6, 7};
    op.sequences[0].targets = {6, 7, 8};
    runs_->Do(run->id, sequence, std::move(op), [&](absl::StatusOr<RunResult> result) {
      const std::lock_guard<std::mutex> lock(mutex_);
      results.push_back(std::move(result));
      changed_.notify_all();
    });
  };
  {
    const ComputeGate::Turn serving = gate_.EnterServing();  // no batch ends before all of this is there
    learn(2);
    Accept("unreadable", 10);
    learn(3);
  }
  const Job job = AwaitFinish("unreadable");
  EXPECT_EQ(job.state, JobState::kFailed);
  EXPECT_NE(job.reason.find("examples: gone"), std::string::npos) << job.reason;
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return results.size() == 2; });
  for (const absl::StatusOr<RunResult>& result : results) EXPECT_THAT(result, IsOk());
}

TEST_F(WorkerTest, AJobOfAnotherBaseIsPausedAndGoesOnWhenThatIsBack) {
  const auto serve = [&](const char* base) {
    const std::lock_guard<std::mutex> lock(mutex_);
    base_digest_ = base;
  };
  const auto resume = [&] { worker_->Resume("job", [](absl::StatusOr<Job> job) { EXPECT_THAT(job, IsOk()); }); };
  Accept("job", 1'000'000);
  Await("job", [](const Job& job) { return job.step >= 3; });
  worker_->Pause("job", KeepReply());
  const int64_t step = AwaitReply()->step;
  serve("other");
  resume();
  const Job refused = Await("job", [](const Job& job) { return job.reason.find("base: other") == 0; });
  EXPECT_EQ(refused.state, JobState::kPaused);
  EXPECT_NE(refused.reason.find("limit: one"), std::string::npos) << refused.reason;
  serve("one");
  resume();
  const Job back = Await("job", [&](const Job& job) { return job.step > step; });
  EXPECT_EQ(back.state, JobState::kRunning);
}

TEST_F(WorkerTest, AJobWhoseCheckpointCannotBeReadNowIsPausedAndGoesOnFromIt) {
  const auto resume = [&] { worker_->Resume("job", [](absl::StatusOr<Job> job) { EXPECT_THAT(job, IsOk()); }); };
  Accept("job", 1'000'000);
  Await("job", [](const Job& job) { return job.step >= 3; });
  worker_->Pause("job", KeepReply());
  const int64_t step = AwaitReply()->step;
  const std::filesystem::path file =
      absl::StrCat(worker_->JobFolder("job"), "/checkpoints/step-", step, "/state.safetensors");
  std::filesystem::rename(file, dir_.File("aside"));
  std::filesystem::create_symlink(file, file);  // "too many levels of symbolic links", also for root
  resume();
  const Job unread =
      Await("job", [](const Job& job) { return job.reason.find("cannot be read now") != std::string::npos; });
  EXPECT_EQ(unread.state, JobState::kPaused);
  std::filesystem::remove(file);
  std::filesystem::rename(dir_.File("aside"), file);
  resume();
  const Job back = Await("job", [&](const Job& job) { return job.step > step; });
  EXPECT_EQ(back.state, JobState::kRunning);
}

TEST_F(WorkerTest, AJobLetsGoWhileItsBeginningIsMade) {
  const auto is_running = [](const Job& job) { return job.state == JobState::kRunning; };
  Accept("slow", 10);
  Await("slow", is_running);
  worker_->Pause("slow", KeepReply());
  EXPECT_EQ(AwaitReply()->state, JobState::kPaused);
  worker_->Resume("slow", [](absl::StatusOr<Job> job) { EXPECT_THAT(job, IsOk()); });
  Await("slow", is_running);
  worker_->Stop();  // would hang here if it waited for the end of it
  EXPECT_EQ(store_->Get("slow")->state, JobState::kQueued);
  EXPECT_EQ(store_->Get("slow")->reason, "the daemon ends");
}

TEST_F(WorkerTest, AJobThatIsCancelledWhileItsBeginningIsMadeMakesRoomForTheNext) {
  Accept("slow", 10);
  Await("slow", [](const Job& job) { return job.state == JobState::kRunning; });
  worker_->Cancel("slow", KeepReply());
  EXPECT_EQ(AwaitReply()->state, JobState::kCancelled);
  Accept("next", 2);
  EXPECT_EQ(AwaitFinish("next").state, JobState::kSucceeded);
}

TEST_F(WorkerTest, AJobGivesItsMemoryBackWhileItsBeginningIsMade) {
  Accept("slow", 10);
  while (plans_ == 0) std::this_thread::yield();  // it runs before it holds memory, and plans behind that
  std::function<void()> give_back;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    give_back = give_back_;
    memory_bytes_ = 0;
  }
  give_back();
  const Job back = Await("slow", [](const Job& job) { return job.state == JobState::kQueued; });
  EXPECT_NE(back.reason.find("gave its memory to requests"), std::string::npos) << back.reason;
}

TEST(SyncedFileTest, AFullDiskIsSaidSo) {
  const absl::Status status = WriteSyncedFile("/dev/full", "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

}  // namespace
}  // namespace lorad
