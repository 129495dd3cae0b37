#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/train/shared_batch.h"
#include "adapters/train/trainer.h"
#include "tests/support/status_matchers.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

using testing::ElementsAre;

class EvaluationTest : public testing::Test {
 protected:
  std::unique_ptr<Trainer> Make(const TrainConfig& config, const ExampleSource& examples, ExampleSource eval = {}) {
    auto trainer = Trainer::Create(config, base_.model.get(), base_.tables, examples, std::move(eval));
    EXPECT_THAT(trainer, IsOk());
    return *std::move(trainer);
  }
  static StepReport Next(Trainer& trainer) {
    while (true) {
      const auto report = trainer.Advance();
      EXPECT_THAT(report, IsOk());
      if (report->has_value()) return **report;
    }
  }
  static std::vector<StepReport> Finish(Trainer& trainer) {
    std::vector<StepReport> reports;
    while (!trainer.done()) reports.push_back(Next(trainer));
    return reports;
  }
  TrainConfig Config(int64_t steps, int64_t eval_every) const {
    TrainConfig config = SmallConfig(/*rank=*/4, steps);
    config.eval_every_steps = eval_every;
    config.dropout = 0.1;
    return config;
  }

  const TrainBase base_ = LoadTrainBase("llama3");
  const ExampleSource examples_ = RandomExamples(9, 12, 1);
  const ExampleSource eval_ = RandomExamples(5, 20, 2);
};

std::vector<int64_t> EvaluatedSteps(const std::vector<StepReport>& reports) {
  std::vector<int64_t> steps;
  for (const StepReport& report : reports) {
    if (report.eval_loss.has_value()) steps.push_back(report.step);
  }
  return steps;
}

TEST_F(EvaluationTest, KnowsNoLossNoiseOrCapacityOfRouters) {
  TrainConfig config = Config(2, 1);
  config.optimizer.learning_rate = 0.0;  // what is evaluated is the start
  config.routed = SmallRouting("mixlora-switch");
  const std::vector<StepReport> calm = Finish(*Make(config, examples_, eval_));
  config.routed->aux_loss_coef = 100.0;
  config.routed->jitter_noise = 0.5;
  config.routed->expert_capacity = 1;
  config.routed->expert_dropout = 0.5;
  const std::vector<StepReport> noisy = Finish(*Make(config, examples_, eval_));
  ASSERT_EQ(calm.size(), noisy.size());
  for (size_t i = 0; i < calm.size(); ++i) EXPECT_EQ(calm[i].eval_loss, noisy[i].eval_loss) << i;
  EXPECT_NE(calm[0].loss, noisy[0].loss);
}

TEST_F(EvaluationTest, ARunWithEvaluationsHasTheBitsOfOneWithout) {
  const std::vector<StepReport> plain = Finish(*Make(Config(7, 3), examples_));
  const std::vector<StepReport> evaluated = Finish(*Make(Config(7, 3), examples_, eval_));
  EXPECT_THAT(EvaluatedSteps(evaluated), ElementsAre(3, 6, 7));
  size_t step = 0;
  for (const StepReport& report : evaluated) {
    if (report.eval_loss.has_value()) continue;
    EXPECT_EQ(report.loss, plain[step].loss);
    EXPECT_EQ(report.grad_norm, plain[step++].grad_norm);
  }
  EXPECT_EQ(step, plain.size());
}

TEST_F(EvaluationTest, ItsLossIsThatOfAStepOnTheSameExamples) {
  const std::string path = testing::TempDir() + "/evaluated.safetensors";
  const auto trainer = Make(Config(3, 3), examples_, eval_);
  const std::vector<StepReport> reports = Finish(*trainer);
  ASSERT_THAT(trainer->SaveState(path), IsOk());
  TrainConfig whole = Config(10, 0);
  whole.dropout = 0;
  whole.batch_size = eval_.count;
  const auto step = Make(whole, eval_);
  ASSERT_THAT(step->LoadState(path), IsOk());
  EXPECT_NEAR(Next(*step).loss, *reports.back().eval_loss, 1e-6 * *reports.back().eval_loss);
}

TEST_F(EvaluationTest, ARunThatGoesOnFromADueStepEvaluatesItAgain) {
  const std::string path = testing::TempDir() + "/due.safetensors";
  const auto first = Make(Config(6, 2), examples_, eval_);
  while (first->steps() < 2) Next(*first);
  ASSERT_THAT(first->SaveState(path), IsOk());
  const StepReport expected = Next(*first);
  ASSERT_TRUE(expected.eval_loss.has_value());
  const auto second = Make(Config(6, 2), examples_, eval_);
  ASSERT_THAT(second->LoadState(path), IsOk());
  EXPECT_EQ(Next(*second).eval_loss, expected.eval_loss);
  EXPECT_EQ(Next(*second).loss, Next(*first).loss);
}

TEST_F(EvaluationTest, OneThatIsGivenUpBeginsAnew) {
  const auto whole = Make(Config(2, 2), examples_, eval_), broken = Make(Config(2, 2), examples_, eval_);
  const std::vector<StepReport> expected = Finish(*whole);
  while (broken->steps() < 2) Next(*broken);
  for (int i = 0; i < 4; ++i) ASSERT_THAT(broken->Advance(), IsOk());
  broken->DropStep();
  EXPECT_FALSE(broken->done());
  EXPECT_EQ(Next(*broken).eval_loss, expected.back().eval_loss);
  EXPECT_TRUE(broken->done());
}

TEST_F(EvaluationTest, AnotherJobMayTrainInTheSameBatch) {
  const double alone_eval = *Finish(*Make(Config(2, 2), examples_, eval_)).back().eval_loss;
  TrainConfig other = SmallConfig(6, 4);
  const std::vector<StepReport> alone = Finish(*Make(other, examples_));
  const auto evaluated = Make(Config(2, 2), examples_, eval_), trained = Make(other, examples_);
  while (evaluated->steps() < 2) Next(*evaluated);
  std::optional<double> loss;
  size_t step = 0;
  while (!loss.has_value()) {
    SharedBatch batch(base_.model.get(), {evaluated.get(), trained.get()});
    for (absl::StatusOr<bool> ended = false; !*ended;) {
      ended = batch.Advance();
      ASSERT_THAT(ended, IsOk());
    }
    ASSERT_THAT(batch.results()[0].report, IsOk());
    ASSERT_THAT(batch.results()[1].report, IsOk());
    if (batch.results()[0].report->has_value()) loss = (*batch.results()[0].report)->eval_loss;
    if (batch.results()[1].report->has_value()) {
      EXPECT_NEAR((*batch.results()[1].report)->loss, alone[step].loss, 1e-5 * alone[step].loss);
      ++step;
    }
  }
  EXPECT_GT(step, 0u);
  EXPECT_NEAR(*loss, alone_eval, 1e-5 * alone_eval);
}

TEST_F(EvaluationTest, PackedExamplesGiveTheLossOfUnpackedOnes) {
  ExampleSource five = RandomExamples(5, 12, 3);
  TrainConfig config = SmallConfig(4, 6);
  config.shuffle = false;
  config.batch_size = 5;
  config.micro_batch_size = 5;
  const std::vector<StepReport> unpacked = Finish(*Make(config, five));
  five.pack_starts = {0, 2, 5};
  config.batch_size = 2;
  for (const int64_t micro_batch_size : {1, 2}) {
    config.micro_batch_size = micro_batch_size;
    const std::vector<StepReport> packed = Finish(*Make(config, five));
    ASSERT_EQ(packed.size(), unpacked.size());
    for (size_t i = 0; i < packed.size(); ++i) {
      EXPECT_NEAR(packed[i].loss, unpacked[i].loss, 1e-5 * unpacked[i].loss);
      EXPECT_EQ(packed[i].trained_tokens, unpacked[i].trained_tokens);
    }
  }
}

}  // namespace
}  // namespace lorad
