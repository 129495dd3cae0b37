#include "adapters/train/shared_batch.h"

#include <cmath>
#include <map>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

struct JobCase {
  TrainConfig config;
  ExampleSource examples;
};

// Everything that can differ between jobs does.
std::vector<JobCase> DifferentJobs() {
  std::vector<JobCase> jobs;
  jobs.push_back({SmallConfig(/*rank=*/3, /*steps=*/12), RandomExamples(7, 9, 1)});
  jobs.push_back({SmallConfig(8, 9), RandomExamples(5, 30, 2)});
  jobs.back().config.adapter.use_dora = true;
  jobs.back().config.batch_size = 6;
  jobs.back().config.micro_batch_size = 2;
  jobs.push_back({SmallConfig(1, 15), RandomExamples(20, 5, 3)});
  jobs.back().config.adapter.all_linear = false;
  jobs.back().config.adapter.target_names = {"down_proj", "lm_head", "embed_tokens"};
  jobs.back().config.optimizer.kind = OptimizerKind::kSgd;
  jobs.back().config.optimizer.momentum = 0.9;
  jobs.push_back({SmallConfig(5, 10), RandomExamples(11, 17, 4)});
  jobs.back().config.dropout = 0.2;
  jobs.back().config.batch_size = 4;
  jobs.back().config.micro_batch_size = 4;
  jobs.back().config.schedule = {ScheduleKind::kCosine, 3};
  jobs.back().config.normalization = LossNormalization::kMicroBatchMean;
  jobs.back().config.optimizer.max_grad_norm = 0.05;
  for (const char* kind : {"mixlora", "mixlora-switch", "mola"}) {
    jobs.push_back({SmallConfig(2, 8), RandomExamples(6, 11, 5)});
    jobs.back().config.routed = SmallRouting(kind);
    jobs.back().config.routed->expert_dropout = jobs.back().config.routed->jitter_noise = 0.1;
    jobs.back().config.batch_size = 4;
    jobs.back().config.micro_batch_size = 2;
  }
  return jobs;
}

std::vector<StepReport> TrainAlone(const TrainBase& base, const JobCase& job) {
  const std::unique_ptr<Trainer> trainer = MakeTrainer(base, job.config, job.examples);
  std::vector<StepReport> reports;
  while (!trainer->done()) {
    const auto report = trainer->Advance();
    EXPECT_THAT(report, IsOk());
    if (!report.ok()) break;
    if (report->has_value()) reports.push_back(**report);
  }
  return reports;
}

// Until each is done; a batch has whoever is not.
std::vector<std::vector<StepReport>> TrainTogether(const TrainBase& base, const std::vector<JobCase>& jobs) {
  std::vector<std::unique_ptr<Trainer>> trainers;
  std::map<Trainer*, size_t> index;
  for (const JobCase& job : jobs) {
    trainers.push_back(MakeTrainer(base, job.config, job.examples));
    index[trainers.back().get()] = index.size();
  }
  std::vector<std::vector<StepReport>> reports(jobs.size());
  while (true) {
    std::vector<Trainer*> members;
    for (const auto& trainer : trainers) {
      if (!trainer->done()) members.push_back(trainer.get());
    }
    if (members.empty()) return reports;
    SharedBatch batch(base.model.get(), members);
    absl::StatusOr<bool> ended = false;
    while (ended.ok() && !*ended) ended = batch.Advance();
    EXPECT_THAT(ended, IsOk());
    if (!ended.ok()) return reports;
    for (const SharedBatch::Result& result : batch.results()) {
      EXPECT_THAT(result.report, IsOk());
      if (result.report.ok() && result.report->has_value())
        reports[index.at(result.trainer)].push_back(**result.report);
    }
  }
}

TEST(SharedBatchTest, TrainingTogetherGivesTheLossesOfTrainingAlone) {
  const TrainBase base = LoadTrainBase("llama3");
  const std::vector<JobCase> jobs = DifferentJobs();
  const auto together = TrainTogether(base, jobs);
  for (size_t j = 0; j < jobs.size(); ++j) {
    const std::vector<StepReport> alone = TrainAlone(base, jobs[j]);
    ASSERT_EQ(alone.size(), static_cast<size_t>(jobs[j].config.total_steps));
    ASSERT_EQ(together[j].size(), alone.size());
    for (size_t s = 0; s < alone.size(); ++s) {
      EXPECT_NEAR(together[j][s].loss, alone[s].loss, 1e-5 * std::abs(alone[s].loss)) << "job " << j << " step " << s;
      EXPECT_NEAR(together[j][s].grad_norm, alone[s].grad_norm, 1e-3 * alone[s].grad_norm);
      EXPECT_NEAR(together[j][s].router_loss.value_or(0.0), alone[s].router_loss.value_or(0.0), 1e-5);
      EXPECT_EQ(together[j][s].learning_rate, alone[s].learning_rate);
      EXPECT_EQ(together[j][s].trained_tokens, alone[s].trained_tokens);
    }
  }
}

TEST(SharedBatchTest, AloneItGivesTheSameBitsEachTime) {
  const TrainBase base = LoadTrainBase("llama3");
  const JobCase job = DifferentJobs()[3];
  const std::vector<StepReport> first = TrainAlone(base, job);
  const std::vector<StepReport> second = TrainTogether(base, {job})[0];
  ASSERT_EQ(first.size(), second.size());
  for (size_t s = 0; s < first.size(); ++s) {
    EXPECT_EQ(first[s].loss, second[s].loss);
    EXPECT_EQ(first[s].grad_norm, second[s].grad_norm);
  }
}

TEST(SharedBatchTest, WithLayersComputedAgainItGivesTheSameBits) {
  const TrainBase base = LoadTrainBase("llama3");
  const JobCase job = DifferentJobs()[4];  // with routers
  const std::vector<StepReport> kept = TrainAlone(base, job);
  const std::unique_ptr<Trainer> trainer = MakeTrainer(base, job.config, job.examples);
  std::vector<StepReport> reports;
  while (!trainer->done()) {
    SharedBatch batch(base.model.get(), {trainer.get()}, {}, /*kept_bytes=*/0);
    absl::StatusOr<bool> ended = false;
    while (ended.ok() && !*ended) ended = batch.Advance();
    ASSERT_THAT(ended, IsOk());
    ASSERT_THAT(batch.results()[0].report, IsOk());
    if (batch.results()[0].report->has_value()) reports.push_back(**batch.results()[0].report);
  }
  ASSERT_EQ(reports.size(), kept.size());
  for (size_t s = 0; s < kept.size(); ++s) {
    EXPECT_EQ(reports[s].loss, kept[s].loss);
    EXPECT_EQ(reports[s].router_loss, kept[s].router_loss);
    EXPECT_EQ(reports[s].grad_norm, kept[s].grad_norm);
  }
}

TEST(SharedBatchTest, AStepThatWasDroppedIsDoneAnewWithTheSameBits) {
  const TrainBase base = LoadTrainBase("llama3");
  const JobCase job = DifferentJobs()[1];
  const std::vector<StepReport> calm = TrainAlone(base, job);
  const std::unique_ptr<Trainer> trainer = MakeTrainer(base, job.config, job.examples);
  std::vector<StepReport> reports;
  for (int slice = 1; !trainer->done(); ++slice) {
    const auto report = trainer->Advance();
    ASSERT_THAT(report, IsOk());
    if (report->has_value()) reports.push_back(**report);
    if (slice < 200 && slice % 23 == 0) trainer->DropStep();
  }
  ASSERT_EQ(reports.size(), calm.size());
  for (size_t s = 0; s < calm.size(); ++s) EXPECT_EQ(reports[s].loss, calm[s].loss) << "step " << s;
}

}  // namespace
}  // namespace lorad
