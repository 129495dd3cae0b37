#include "adapters/train/train_size.h"

#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

// What was counted from shapes is what a trainer then has.
void ExpectCounted(const TrainBase& base, const TrainConfig& config) {
  const auto size = SizeOfTraining(config, base.model->base_shape());
  ASSERT_THAT(size, IsOk());
  const std::unique_ptr<Trainer> trainer = MakeTrainer(base, config, RandomExamples(2, 4, 1));
  ASSERT_NE(trainer, nullptr);
  EXPECT_EQ(size->parameters, trainer->parameters());
  EXPECT_EQ(size->state_bytes, trainer->state_bytes());
}

TEST(TrainSizeTest, OfPairsTokensAndSavedModulesIsWhatATrainerHas) {
  const TrainBase base = LoadTrainBase("llama3");
  TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/1);
  ExpectCounted(base, config);
  config.optimizer.kind = OptimizerKind::kSgd;
  ExpectCounted(base, config);
  config.optimizer.momentum = 0.9;
  ExpectCounted(base, config);
  config.adapter.use_dora = true;
  ExpectCounted(base, config);
  config.init = LeafInit::kOlora;
  ExpectCounted(base, config);
  config = SmallConfig(/*rank=*/2, /*steps=*/1);
  config.adapter.trainable_tokens = {{"", {3, 7}}};
  config.adapter.modules_to_save = {"norm"};
  ExpectCounted(base, config);
}

TEST(TrainSizeTest, OfBiasesIsWhatATrainerHas) {
  const TrainBase base = LoadTrainBase("opt");
  TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/1);
  config.adapter.bias = PeftBias::kAll;
  ExpectCounted(base, config);
}

TEST(TrainSizeTest, OfExpertsIsWhatATrainerHas) {
  const TrainBase base = LoadTrainBase("llama3");
  for (const char* kind : {"mixlora", "loramoe", "mola"}) {
    SCOPED_TRACE(kind);
    TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/1);
    config.routed = SmallRouting(kind);
    ExpectCounted(base, config);
  }
}

TEST(TrainSizeTest, ARowCountsAsOftenAsItsExpertsKeepValues) {
  TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/1);
  EXPECT_EQ(RowCost(config), 1);
  config.routed = SmallRouting("mixlora-switch");
  EXPECT_EQ(RowCost(config), 1);
  config.routed = SmallRouting("mola");
  EXPECT_EQ(RowCost(config), 2);
  config.routed = SmallRouting("loramoe");
  EXPECT_EQ(RowCost(config), 4);
}

// Gigabytes, of which nothing is made.
TEST(TrainSizeTest, WhatNoMachineHoldsIsCounted) {
  const SiteShape up = {
      .site = Site::kUpProj, .module_path = "model.layers.{}.mlp.up_proj", .in_features = 2048, .out_features = 5632};
  const BaseShape base = {
      .model_type = "llama", .num_layers = 22, .vocab_size = 32000, .hidden_size = 2048, .sites = {up}};
  TrainConfig config;
  config.routed = SmallRouting("mixlora");
  config.routed->moe.experts = 256;
  config.routed->moe.expert.rank = 512;
  const auto size = SizeOfTraining(config, base);
  ASSERT_THAT(size, IsOk());
  constexpr int64_t kParameters = 22 * (int64_t{256} * 2048 + int64_t{256} * 512 * (2048 + 5632));
  EXPECT_EQ(size->parameters, kParameters);
  EXPECT_EQ(size->state_bytes, 16 * kParameters);
}

}  // namespace
}  // namespace lorad
