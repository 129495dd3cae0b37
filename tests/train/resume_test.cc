#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "adapters/train/trainer.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

// A trainer on the golden Llama, with dropout, shuffled data and momentum of every kind in its state.
class ResumeTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    base_ = LoadTrainBase("llama3");
    ASSERT_NE(base_.model, nullptr);
    for (int32_t i = 0; i < 11; ++i) {
      Example example;
      for (int32_t t = 0; t < 5 + i; ++t) example.token_ids.push_back(3 + (i * 7 + t * 13) % 90);
      example.labels = example.token_ids;
      examples_.push_back(example);
    }
  }
  std::unique_ptr<Trainer> Make(uint64_t seed = 1) {
    TrainConfig config;
    config.adapter.rank = 4;
    config.adapter.all_linear = true;
    config.adapter.use_dora = GetParam() == "Dora";
    config.dropout = config.adapter.use_dora ? 0.0 : 0.2;
    if (GetParam() == "MixLoraWithNoise") {
      config.routed = SmallRouting("mixlora");
      config.routed->expert_dropout = config.routed->jitter_noise = 0.1;
    }
    if (of_another_shape_) {  // but for the first tensors
      config.adapter.rank_pattern = {{"up_proj", 5}};
      if (config.routed.has_value()) config.routed->moe.lora.rank = 5;
    }
    config.optimizer.learning_rate = 5e-3;
    config.total_steps = 8;
    config.batch_size = 4;
    config.micro_batch_size = 2;
    config.seed = seed;
    config.base_digest = base_digest_;
    if (GetParam() == "Pissa") config.init = LeafInit::kPissa;
    config.begins_from_state = begins_from_state_;
    const ExampleSource source = {static_cast<int64_t>(examples_.size()),
                                  [this](int64_t i) { return examples_[static_cast<size_t>(i)]; }};
    return MakeTrainer(base_, config, source);
  }
  static double Step(Trainer& trainer) {
    while (true) {
      const auto report = trainer.Advance();
      EXPECT_THAT(report, IsOk());
      if (report->has_value()) return (*report)->loss;
    }
  }

  // What a state file of the trainer as it is has in it.
  static std::string StateOf(const Trainer& trainer) {
    const std::string path = testing::TempDir() + "/now.safetensors";
    EXPECT_THAT(trainer.SaveState(path), IsOk());
    return ReadFile(path);
  }

  bool of_another_shape_ = false;
  bool begins_from_state_ = false;
  std::string base_digest_;
  TrainBase base_;
  std::vector<Example> examples_;
};

TEST_P(ResumeTest, ARunFromACheckpointHasTheBitsOfOneThatWasNeverStopped) {
  const std::string path = testing::TempDir() + "/state.safetensors";
  const auto whole = Make();
  std::vector<double> expected;
  while (!whole->done()) expected.push_back(Step(*whole));

  std::vector<double> losses;
  auto first = Make();
  for (int i = 0; i < 3; ++i) losses.push_back(Step(*first));
  for (int i = 0; i < 5; ++i) ASSERT_THAT(first->Advance(), IsOk());  // A step that is under way is not in the state.
  ASSERT_THAT(first->SaveState(path), IsOk());
  first.reset();
  begins_from_state_ = true;
  const auto second = Make();
  ASSERT_THAT(second->LoadState(path), IsOk());
  EXPECT_EQ(second->steps(), 3);
  while (!second->done()) losses.push_back(Step(*second));
  EXPECT_EQ(losses, expected);
}

TEST_P(ResumeTest, AnotherSeedIsAnotherRun) {
  const auto one = Make(1), other = Make(2);
  EXPECT_NE(Step(*one), Step(*other));
}

TEST_P(ResumeTest, AStateOfAnotherShapeIsRefused) {
  const auto trainer = Make();
  EXPECT_FALSE(trainer->LoadState(absl::StrCat(SourceDir(), "/tests/golden/llama3/model/model.safetensors")).ok());
}

TEST_P(ResumeTest, AStateThatDoesNotFitChangesNothing) {
  const std::string path = testing::TempDir() + "/other.safetensors";
  const auto trainer = Make(/*seed=*/1);
  const std::string before = StateOf(*trainer);
  of_another_shape_ = true;
  ASSERT_THAT(Make(/*seed=*/2)->SaveState(path), IsOk());
  EXPECT_TRUE(absl::IsDataLoss(trainer->LoadState(path)));
  EXPECT_EQ(StateOf(*trainer), before);

  // Nor does one that fits, but does not say how many steps it is of.
  of_another_shape_ = false;
  ASSERT_THAT(Make(/*seed=*/2)->SaveState(path), IsOk());
  std::string state = ReadFile(path);
  const size_t key = state.find("\"steps\"");
  ASSERT_NE(key, std::string::npos);
  state.replace(key, 7, "\"stepz\"");
  WriteFile(path, state);
  EXPECT_TRUE(absl::IsDataLoss(trainer->LoadState(path)));
  EXPECT_EQ(StateOf(*trainer), before);
}

TEST_P(ResumeTest, AStateIsOfTheBaseThatItWasTrainedOn) {
  const std::string path = testing::TempDir() + "/of_base.safetensors";
  const auto unknown = Make();
  const std::string before = StateOf(*unknown);
  base_digest_ = "one";
  ASSERT_THAT(Make()->SaveState(path), IsOk());
  EXPECT_THAT(Make()->LoadState(path), IsOk());
  base_digest_ = "other";
  const absl::Status status = Make()->LoadState(path);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("base: other; limit: one"), std::string::npos) << status;
  WriteFile(path, before);  // as states were before they said so
  EXPECT_THAT(Make()->LoadState(path), IsOk());
}

INSTANTIATE_TEST_SUITE_P(Kinds, ResumeTest, testing::Values("LoraWithDropout", "Dora", "MixLoraWithNoise", "Pissa"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
