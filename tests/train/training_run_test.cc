#include "adapters/train/training_run.h"

#include <cmath>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "adapters/kinds/kind.h"
#include "adapters/train/shared_batch.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

using nlohmann::json;

std::string GoldenDir() { return absl::StrCat(SourceDir(), "/tests/golden"); }

json Cases() {
  std::ifstream file(GoldenDir() + "/training_runs/cases.json");
  return json::parse(file);
}

LossKind KindOf(const std::string& name) {
  return name == "ppo"             ? LossKind::kPpo
         : name == "cross_entropy" ? LossKind::kCrossEntropy
                                   : LossKind::kImportanceSampling;
}

template <typename T>
void Append(const json& datum, const char* key, std::vector<T>* to) {
  if (!datum.contains(key)) return;
  const auto values = datum[key].get<std::vector<T>>();
  to->insert(to->end(), values.begin(), values.end());
}

OptimizerConfig OptimizerOf(const json& spec) {
  OptimizerConfig config;
  config.learning_rate = spec["learning_rate"];
  config.beta1 = spec["betas"][0];
  config.beta2 = spec["betas"][1];
  config.epsilon = spec["epsilon"];
  config.weight_decay = spec["weight_decay"];
  config.max_grad_norm = spec["max_grad_norm"];
  return config;
}

// One of torch's runs, done again by ours.
struct Replay {
  Replay(const TrainBase& base, const json& golden) : golden(golden) {
    const std::string trace = golden["trace"];
    TrainConfig config = SmallConfig(/*rank=*/4, /*steps=*/0);
    config.adapter.use_dora = trace == "llama3_dora";
    auto made = TrainingRun::Create(config, base.model.get(), base.tables);
    EXPECT_THAT(made, IsOk());
    run = *std::move(made);
    const auto begin = ReadAdapter(absl::StrCat(GoldenDir(), "/training/", trace, "/adapter"), base.model->base_shape(),
                                   *LocalFiles(), {.base_tables = base.tables});
    EXPECT_THAT(begin, IsOk());
    EXPECT_THAT(run->CopyFrom(*begin), IsOk());
  }

  MicroBatchPart PartOf(const json& call) const {
    RowLoss loss;
    loss.kind = KindOf(golden["loss"]);
    std::vector<TrainSequence> sequences;
    for (const json& datum : call["data"]) {
      sequences.push_back(
          {datum["token_ids"].get<std::vector<int32_t>>(), datum["target_ids"].get<std::vector<int32_t>>()});
      Append(datum, "weights", &loss.weights);
      Append(datum, "advantages", &loss.advantages);
      Append(datum, "old_logprobs", &loss.old_logprobs);
    }
    return run->PartOf(std::move(sequences), std::move(loss), /*draw=*/0);
  }

  void Expect(const json& call, const PartResult& result) const {
    const double loss = call["loss"];
    EXPECT_NEAR(result.loss_sum, loss, 1e-4 * std::max(1.0, std::abs(loss)));
    std::vector<float> logprobs;
    for (const json& of_datum : call["logprobs"]) {
      const auto values = of_datum.get<std::vector<float>>();
      logprobs.insert(logprobs.end(), values.begin(), values.end());
    }
    ASSERT_EQ(result.logprobs.size(), logprobs.size());
    for (size_t i = 0; i < logprobs.size(); ++i) EXPECT_NEAR(result.logprobs[i], logprobs[i], 1e-4);
  }

  const json golden;
  std::unique_ptr<TrainingRun> run;
};

TEST(TrainingRunTest, LossesLogprobsAndGradientsAreTorchsInOneBatchWithOthers) {
  const TrainBase base = LoadTrainBase("llama3");
  std::vector<Replay> replays;
  for (const json& golden : Cases()) replays.emplace_back(base, golden);
  ASSERT_EQ(replays.size(), 4u);
  for (size_t step = 0; step < replays[0].golden["steps"].size(); ++step) {
    for (size_t call = 0; call < 2; ++call) {
      std::vector<BatchMember> members;
      int results = 0;
      for (const Replay& replay : replays) {
        const json& expected = replay.golden["steps"][step]["calls"][call];
        members.push_back({replay.PartOf(expected), [&replay, &expected, &results](const PartResult& result) {
                             SCOPED_TRACE(replay.golden["loss"].get<std::string>());
                             replay.Expect(expected, result);
                             ++results;
                           }});
      }
      SharedBatch batch(base.model.get(), {}, std::move(members));
      absl::StatusOr<bool> ended = false;
      while (ended.ok() && !*ended) ended = batch.Advance();
      ASSERT_THAT(ended, IsOk());
      ASSERT_EQ(results, 4);
    }
    for (const Replay& replay : replays) {
      const auto norm = replay.run->OptimStep(OptimizerOf(replay.golden["optimizer"]));
      ASSERT_THAT(norm, IsOk());
      const double expected = replay.golden["steps"][step]["grad_norm"];
      EXPECT_NEAR(*norm, expected, 1e-3 * expected) << replay.golden["loss"] << " step " << step;
    }
  }
}

// The caller's loop does what peft's trainer did, mask by mask.
TEST(TrainingRunTest, WithDropoutLossesAndGradientsArePefts) {
  const std::string folder = GoldenDir() + "/training/llama3_dropout";
  std::ifstream file(folder + "/trace.json");
  const json trace = json::parse(file), &spec = trace["spec"];
  ASSERT_EQ(spec["micro_batch_size"], 1);
  ASSERT_EQ(spec["normalization"], "token_mean");
  const TrainBase base = LoadTrainBase("llama3");
  TrainConfig config = SmallConfig(spec["rank"], /*steps=*/0);
  config.dropout = spec["dropout"];
  config.seed = spec["seed"];
  const auto run = TrainingRun::Create(config, base.model.get(), base.tables);
  ASSERT_THAT(run, IsOk());
  EXPECT_TRUE((*run)->draws());
  const auto begin = ReadAdapter(folder + "/adapter", base.model->base_shape(), *LocalFiles());
  ASSERT_THAT(begin, IsOk());
  ASSERT_THAT((*run)->CopyFrom(*begin), IsOk());
  const ExampleSource examples = FileExamples(folder + "/data.jsonl");
  const int64_t batch_size = spec["batch_size"];
  int64_t draw = 0;
  for (const json& expected : trace["steps"]) {
    int64_t tokens = 0;
    const auto example_at = [&](int64_t i) { return *examples.get(i % examples.count); };
    for (int64_t i = draw; i < draw + batch_size; ++i) tokens += TrainedTokens(example_at(i));
    double loss = 0;
    for (const int64_t end = draw + batch_size; draw < end; ++draw) {
      RowLoss row_loss;
      row_loss.scale = 1.0 / static_cast<double>(tokens);
      MicroBatchPart part =
          (*run)->PartOf({SequenceOf(example_at(draw))}, std::move(row_loss), static_cast<uint64_t>(draw));
      std::vector<BatchMember> members;
      members.push_back({std::move(part), [&](const PartResult& result) { loss += result.loss_sum; }});
      SharedBatch batch(base.model.get(), {}, std::move(members));
      absl::StatusOr<bool> ended = false;
      while (ended.ok() && !*ended) ended = batch.Advance();
      ASSERT_THAT(ended, IsOk());
    }
    loss /= static_cast<double>(tokens);
    EXPECT_NEAR(loss, expected["loss"].get<double>(), 1e-5 * loss) << draw;
    OptimizerConfig optimizer = OptimizerOf(spec);
    optimizer.learning_rate = expected["learning_rate"];
    const auto norm = (*run)->OptimStep(optimizer);
    ASSERT_THAT(norm, IsOk());
    EXPECT_NEAR(*norm, expected["grad_norm"].get<double>(), 1e-3 * *norm) << draw;
  }
}

// One row of which the ratio overflows does not spoil the steps behind it.
TEST(TrainingRunTest, GradientsThatAreNotFiniteAreDroppedAndTheNextStepIsAsEver) {
  const TrainBase base = LoadTrainBase("llama3");
  const auto make = [&] {
    return TrainingRun::Create(SmallConfig(/*rank=*/2, /*steps=*/0), base.model.get(), base.tables);
  };
  const auto run = make(), fresh = make();
  ASSERT_THAT(run, IsOk());
  ASSERT_THAT(fresh, IsOk());
  const auto step = [&](TrainingRun* stepping, float old_logprob) -> absl::StatusOr<double> {
    RowLoss loss;
    loss.kind = LossKind::kImportanceSampling;
    loss.advantages = {1.0f, 1.0f};
    loss.old_logprobs = {old_logprob, old_logprob};
    std::vector<TrainSequence> sequences(1);
    sequences[0].token_ids = {5, 6};
    sequences[0].targets = {6, 7};
    std::vector<BatchMember> members;
    members.push_back({stepping->PartOf(std::move(sequences), std::move(loss), /*draw=*/0), [](const PartResult&) {}});
    SharedBatch batch(base.model.get(), {}, std::move(members));
    absl::StatusOr<bool> ended = false;
    while (ended.ok() && !*ended) ended = batch.Advance();
    if (!ended.ok()) return ended.status();
    return stepping->OptimStep(OptimizerConfig());
  };
  EXPECT_THAT(step(run->get(), -1e4f),
              IsError(absl::StatusCode::kDataLoss, testing::HasSubstr("gradients are dropped")));
  const auto after = step(run->get(), -4.0f), expected = step(fresh->get(), -4.0f);
  ASSERT_THAT(after, IsOk());
  ASSERT_THAT(expected, IsOk());
  EXPECT_GT(*expected, 0.0);
  EXPECT_NEAR(*after, *expected, 1e-5 * *expected);
}

TEST(TrainingRunTest, OneThatBeginsFromAStateHasAllOfItFromThere) {
  const TempDir dir;
  const TrainBase base = LoadTrainBase("llama3");
  TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/0);
  config.init = LeafInit::kPissa;
  const auto fresh = TrainingRun::Create(config, base.model.get(), base.tables);
  ASSERT_THAT(fresh, IsOk());
  EXPECT_FALSE((*fresh)->needs_state());
  ASSERT_THAT((*fresh)->SaveState(dir.File("fresh")), IsOk());
  config.begins_from_state = true;
  const auto loaded = TrainingRun::Create(config, base.model.get(), base.tables);
  ASSERT_THAT(loaded, IsOk());
  EXPECT_TRUE((*loaded)->needs_state());
  EXPECT_FALSE((*loaded)->LoadState(dir.File("none")).ok());
  EXPECT_TRUE((*loaded)->needs_state());
  ASSERT_THAT((*loaded)->LoadState(dir.File("fresh")), IsOk());
  EXPECT_FALSE((*loaded)->needs_state());
  ASSERT_THAT((*loaded)->SaveState(dir.File("loaded")), IsOk());
  EXPECT_EQ(ReadFile(dir.File("loaded")), ReadFile(dir.File("fresh")));
}

TEST(RowLossTest, DerivativesAreTheFiniteDifferences) {
  constexpr double kStep = 1e-6;
  for (const LossKind kind : {LossKind::kCrossEntropy, LossKind::kImportanceSampling, LossKind::kPpo}) {
    for (const float advantage : {-1.5f, 0.7f}) {
      for (const double logprob : {-0.4, -1.0, -1.7}) {  // ratios above, within and below the clips
        RowLoss loss;
        loss.kind = kind;
        loss.scale = 0.3;
        loss.weights = {2.0f};
        loss.advantages = {advantage};
        loss.old_logprobs = {-1.05f};
        const double slope =
            (LossOf(loss, 0, logprob + kStep).loss - LossOf(loss, 0, logprob - kStep).loss) / (2 * kStep);
        EXPECT_NEAR(LossOf(loss, 0, logprob).derivative, 0.3 * slope, 1e-6);
      }
    }
  }
}

}  // namespace
}  // namespace lorad
