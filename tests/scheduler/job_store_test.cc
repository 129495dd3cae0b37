#include "scheduler/tuning/job_store.h"

#include <unistd.h>

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "adapters/train/synced_file.h"
#include "scheduler/tuning/checkpoints.h"
#include "scheduler/tuning/sqlite.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using testing::ElementsAre;

std::string FreshFolder(const std::string& name) {
  const std::string dir = absl::StrCat(testing::TempDir(), "/", name, "-", getpid());
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  return dir;
}

Job MakeJob(const std::string& id, int32_t priority = 0, const std::string& key = "") {
  Job job;
  job.id = id;
  job.name = absl::StrCat("adapter-", id);
  job.spec = std::string("\0spec", 5);
  job.priority = priority;
  job.idempotency_key = key;
  job.total_steps = 10;
  return job;
}

JobEvent EventOf(const Job& job) {
  JobEvent event;
  event.job_id = job.id;
  event.state = job.state;
  event.step = job.step;
  return event;
}

class JobStoreTest : public testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() {
    store_.reset();
    auto opened = JobStore::Open(path_);
    ASSERT_THAT(opened, IsOk());
    store_ = *std::move(opened);
  }
  void Insert(const Job& job) {
    JobEvent event = EventOf(job);
    ASSERT_THAT(store_->Insert(job, &event), IsOk());
  }
  std::vector<std::string> Listed(const std::string& after, int64_t limit) {
    std::vector<std::string> ids;
    const auto jobs = store_->List(after, limit);
    for (const Job& job : *jobs) ids.push_back(job.id);
    return ids;
  }
  const std::string path_ = FreshFolder("job_store") + "/jobs.db";
  std::unique_ptr<JobStore> store_;
};

TEST_F(JobStoreTest, WhatWasStoredIsThereWhenTheFileIsOpenedAgain) {
  Insert(MakeJob("a"));
  Job job = *store_->Get("a");
  job.state = JobState::kRunning;
  job.step = 3;
  job.last_loss = 1.25;
  JobEvent event = EventOf(job);
  event.loss = 1.25;
  ASSERT_THAT(store_->Update(job, &event), IsOk());
  EXPECT_EQ(event.sequence, 2);
  Open();
  const Job found = *store_->Get("a");
  EXPECT_EQ(found.spec, std::string("\0spec", 5));
  EXPECT_EQ(found.state, JobState::kRunning);
  EXPECT_EQ(found.step, 3);
  const auto events = store_->Events("a", 0, 100);
  ASSERT_THAT(events, IsOk());
  ASSERT_EQ(events->size(), 2u);
  EXPECT_FALSE((*events)[0].loss.has_value());
  EXPECT_EQ((*events)[1].loss, 1.25);
  EXPECT_EQ(store_->Events("a", 1, 100)->size(), 1u);
}

TEST_F(JobStoreTest, TheNextJobIsTheOldestOfTheHighestPriority) {
  Insert(MakeJob("a", 0));
  Insert(MakeJob("b", 5));
  Insert(MakeJob("c", 5));
  EXPECT_EQ((*store_->NextQueued())->id, "b");
  Job done = *store_->Get("b");
  done.state = JobState::kSucceeded;
  JobEvent event = EventOf(done);
  ASSERT_THAT(store_->Update(done, &event), IsOk());
  EXPECT_EQ((*store_->NextQueued())->id, "c");
  EXPECT_THAT(store_->InState(JobState::kSucceeded)->size(), 1u);
}

TEST_F(JobStoreTest, ListsTheNewestFirstPageByPage) {
  for (const char* id : {"a", "b", "c"}) Insert(MakeJob(id));
  EXPECT_THAT(Listed("", 2), ElementsAre("c", "b"));
  EXPECT_THAT(Listed("b", 2), ElementsAre("a"));
  EXPECT_TRUE(absl::IsInvalidArgument(store_->List("gone", 2).status()));  // not the first page once more
}

TEST_F(JobStoreTest, CountsWhatHappenedSinceTheFurthestStep) {
  Insert(MakeJob("a"));
  const auto happens = [&](int64_t step, const std::string& message) {
    Job job = *store_->Get("a");
    job.step = step;
    JobEvent event = EventOf(job);
    event.message = message;
    ASSERT_THAT(store_->Update(job, &event), IsOk());
  };
  EXPECT_EQ(*store_->CountSinceProgress("a", "again"), 0);
  happens(0, "again");
  EXPECT_EQ(*store_->CountSinceProgress("a", "again"), 1);
  happens(5, "");
  happens(3, "again");
  happens(5, "");  // done once more
  happens(5, "again");
  EXPECT_EQ(*store_->CountSinceProgress("a", "again"), 2);
}

TEST_F(JobStoreTest, AKeyIsOneJobAndNoKeyIsAnyNumber) {
  Insert(MakeJob("a", 0, "k"));
  Insert(MakeJob("b"));
  Insert(MakeJob("c"));
  EXPECT_EQ((*store_->FindByKey("k"))->id, "a");
  EXPECT_FALSE(store_->FindByKey("")->has_value());
  Job again = MakeJob("d", 0, "k");
  JobEvent event = EventOf(again);
  EXPECT_TRUE(absl::IsAlreadyExists(store_->Insert(again, &event)));
  EXPECT_TRUE(absl::IsNotFound(store_->Get("d").status()));  // nothing of it
}

TEST_F(JobStoreTest, DeletingTakesTheEventsAlong) {
  Insert(MakeJob("a"));
  ASSERT_THAT(store_->Delete("a"), IsOk());
  EXPECT_TRUE(absl::IsNotFound(store_->Get("a").status()));
  EXPECT_TRUE(store_->Events("a", 0, 10)->empty());
  EXPECT_TRUE(absl::IsNotFound(store_->Delete("a")));
}

TEST_F(JobStoreTest, AnEvaluationThatWasDoneAgainCountsAsItCameOutLast) {
  Insert(MakeJob("a"));
  const auto evaluate = [&](int64_t step, double loss) {
    Job job = *store_->Get("a");
    job.step = step;
    JobEvent event = EventOf(job);
    event.eval_loss = loss;
    event.aux_loss = loss / 8;
    ASSERT_THAT(store_->Update(job, &event), IsOk());
  };
  for (const auto& [step, loss] : {std::pair<int64_t, double>{5, 3.0}, {10, 2.0}, {5, 2.5}, {10, 1.5}}) {
    evaluate(step, loss);
  }
  const auto found = store_->Evaluations("a");
  ASSERT_THAT(found, IsOk());
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ((*found)[0].loss, 2.5);
  EXPECT_EQ((*found)[1].step, 10);
  EXPECT_EQ((*found)[1].loss, 1.5);
  EXPECT_EQ((*store_->Events("a", 1, 1))[0].eval_loss, 3.0);
  EXPECT_EQ((*store_->Events("a", 1, 1))[0].aux_loss, 0.375);
}

TEST_F(JobStoreTest, AFileOfTheFirstVersionIsBroughtUp) {
  Insert(MakeJob("a"));
  store_.reset();
  constexpr const char* kTakeBack =
      "DROP TABLE IF EXISTS revisions; DROP TABLE IF EXISTS aliases; ALTER TABLE events DROP COLUMN eval_loss; "
      "ALTER TABLE events DROP COLUMN aux_loss; PRAGMA user_version = 1";
  ASSERT_THAT(SqliteDatabase::Open(path_)->Execute(kTakeBack), IsOk());
  Open();
  const auto events = store_->Events("a", 0, 10);
  ASSERT_THAT(events, IsOk());
  ASSERT_EQ(events->size(), 1u);
  EXPECT_FALSE((*events)[0].eval_loss.has_value());
}

TEST_F(JobStoreTest, AFileOfANewerVersionIsLeftAlone) {
  store_.reset();
  ASSERT_THAT(SqliteDatabase::Open(path_)->Execute("PRAGMA user_version = 99"), IsOk());
  EXPECT_TRUE(absl::IsFailedPrecondition(JobStore::Open(path_).status()));
}

TEST_F(JobStoreTest, WhatIsNoDatabaseIsRefused) {
  const std::string path = FreshFolder("no_store") + "/jobs.db";
  ASSERT_THAT(WriteSyncedFile(path, std::string(4096, 'x')), IsOk());
  EXPECT_TRUE(absl::IsDataLoss(JobStore::Open(path).status()));
}

class CheckpointsTest : public testing::Test {
 protected:
  const std::string dir_ = FreshFolder("checkpoints") + "/c";
  static absl::Status Save(const std::string& path) { return WriteSyncedFile(path, "weights of " + path); }
};

TEST_F(CheckpointsTest, KeepsTheNewestAndChecksTheirDigests) {
  auto checkpoints = Checkpoints::Open(dir_);
  ASSERT_THAT(checkpoints, IsOk());
  for (const int64_t step : {5, 10, 15}) ASSERT_THAT(checkpoints->Write(step, step * 100, 2, Save), IsOk());
  EXPECT_THAT(checkpoints->Steps().value_or(std::vector<int64_t>()), ElementsAre(15, 10));
  const auto found = checkpoints->Read(15);
  ASSERT_THAT(found, IsOk());
  EXPECT_EQ(found->trained_tokens, 1500);
  ASSERT_THAT(WriteSyncedFile(found->state_path, "other weights"), IsOk());
  EXPECT_TRUE(absl::IsDataLoss(checkpoints->Read(15).status()));
  EXPECT_THAT(checkpoints->Read(10), IsOk());
}

TEST_F(CheckpointsTest, AnInterruptedWriteLeavesNothingThatCounts) {
  auto checkpoints = Checkpoints::Open(dir_);
  ASSERT_THAT(checkpoints->Write(5, 0, 2, Save), IsOk());
  const auto fail = [](const std::string& path) {
    (void)WriteSyncedFile(path, "half");
    return absl::ResourceExhaustedError("no space");
  };
  EXPECT_TRUE(absl::IsResourceExhausted(checkpoints->Write(10, 0, 2, fail)));
  std::filesystem::create_directories(dir_ + "/unfinished-7");  // of a killed process
  checkpoints = Checkpoints::Open(dir_);
  EXPECT_THAT(checkpoints->Steps().value_or(std::vector<int64_t>()), ElementsAre(5));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/unfinished-7"));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/unfinished-10"));
}

TEST_F(CheckpointsTest, AFolderThatCannotBeReadIsNotAnEmptyOne) {
  auto checkpoints = Checkpoints::Open(dir_);
  ASSERT_THAT(checkpoints, IsOk());
  EXPECT_THAT(checkpoints->Steps(), IsOk());
  std::filesystem::remove(dir_);
  EXPECT_TRUE(absl::IsUnavailable(checkpoints->Steps().status()));
}

TEST_F(CheckpointsTest, AManifestThatLiesIsRefused) {
  auto checkpoints = Checkpoints::Open(dir_);
  ASSERT_THAT(checkpoints->Write(5, 0, 2, Save), IsOk());
  for (const char* text : {"", "[]", "{\"format\": 1}", "{\"format\": 1, \"step\": 6, \"trained_tokens\": 0}"}) {
    ASSERT_THAT(WriteSyncedFile(dir_ + "/step-5/manifest.json", text), IsOk());
    EXPECT_FALSE(checkpoints->Read(5).ok()) << text;
  }
}

}  // namespace
}  // namespace lorad
