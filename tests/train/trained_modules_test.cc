#include "adapters/train/trained_modules.h"

#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

BaseShape TwoLayers(bool tied) {
  return {
      .model_type = "opt",
      .num_layers = 2,
      .vocab_size = 50,
      .hidden_size = 8,
      .tied_embeddings = tied,
      .sites = {
          {.site = Site::kQProj,
           .module_path = "model.layers.{}.q_proj",
           .in_features = 8,
           .out_features = 8,
           .has_bias = true},
          {.site = Site::kEmbedTokens,
           .module_path = "model.embed_tokens",
           .in_features = 50,
           .out_features = 8,
           .per_layer = false},
          {.site = Site::kLmHead, .module_path = "lm_head", .in_features = 8, .out_features = 50, .per_layer = false},
          {.site = Site::kInputNorm,
           .module_path = "model.layers.{}.input_layernorm",
           .in_features = 1,
           .out_features = 8,
           .has_bias = true},
          {.site = Site::kFinalNorm,
           .module_path = "model.norm",
           .in_features = 1,
           .out_features = 8,
           .per_layer = false}}};
}

TrainConfig OnLayer0() {
  TrainConfig config;
  config.adapter.target_names = {"layers.0.q_proj"};
  return config;
}

// "model.norm: weight bias tokens tied pair", as far as they are trained.
std::vector<std::string> Trained(const TrainConfig& config, const BaseShape& base) {
  const auto selected = SelectTrained(config, base);
  EXPECT_THAT(selected, IsOk());
  std::vector<std::string> texts;
  if (!selected.ok()) return texts;
  for (const auto& [path, trained] : *selected) {
    std::string text = path + ":";
    if (trained.pair) text += " pair";
    if (trained.weight) text += " weight";
    if (trained.bias) text += " bias";
    for (const int32_t token : trained.tokens) absl::StrAppend(&text, " ", token);
    if (trained.tokens_are_tied) text += " tied";
    texts.push_back(std::move(text));
  }
  return texts;
}

std::string Refusal(const TrainConfig& config, const BaseShape& base = TwoLayers(false)) {
  return std::string(SelectTrained(config, base).status().message());
}

TEST(SelectTrainedTest, BiasesAreThoseOfTheTargetsOrAll) {
  TrainConfig config = OnLayer0();
  config.adapter.bias = PeftBias::kLoraOnly;
  EXPECT_THAT(Trained(config, TwoLayers(false)), ElementsAre("model.layers.0.q_proj: pair bias"));
  config.adapter.bias = PeftBias::kAll;
  EXPECT_THAT(Trained(config, TwoLayers(false)),
              ElementsAre("model.layers.0.input_layernorm: bias", "model.layers.0.q_proj: pair bias",
                          "model.layers.1.input_layernorm: bias", "model.layers.1.q_proj: bias"));
}

TEST(SelectTrainedTest, AModuleIsSavedWhereItsPathEndsSo) {
  TrainConfig config = OnLayer0();
  config.adapter.modules_to_save = {"norm", "lm_head"};
  EXPECT_THAT(
      Trained(config, TwoLayers(true)),
      ElementsAre("lm_head: weight", "model.layers.0.input_layernorm: weight bias", "model.layers.0.q_proj: pair",
                  "model.layers.1.input_layernorm: weight bias", "model.norm: weight"));
}

TEST(SelectTrainedTest, ATiedHeadReadsTheEmbeddingsTokensUnlessItHasItsOwn) {
  TrainConfig config = OnLayer0();
  config.adapter.trainable_tokens = {{"", {7, 3}}};
  EXPECT_THAT(Trained(config, TwoLayers(false)), ElementsAre("model.embed_tokens: 3 7", "model.layers.0.q_proj: pair"));
  EXPECT_THAT(Trained(config, TwoLayers(true)),
              ElementsAre("lm_head: 3 7 tied", "model.embed_tokens: 3 7", "model.layers.0.q_proj: pair"));
  config.adapter.trainable_tokens = {{"embed_tokens", {7, 3}}, {"lm_head", {4}}};
  EXPECT_THAT(Trained(config, TwoLayers(true)),
              ElementsAre("lm_head: 4", "model.embed_tokens: 3 7", "model.layers.0.q_proj: pair"));
}

TEST(SelectTrainedTest, TokensOfTheHeadAloneAreItsOwnOnATiedBaseToo) {
  TrainConfig config = OnLayer0();
  config.adapter.trainable_tokens = {{"lm_head", {7, 3}}};
  for (const bool tied : {false, true}) {
    EXPECT_THAT(Trained(config, TwoLayers(tied)), ElementsAre("lm_head: 3 7", "model.layers.0.q_proj: pair"));
  }
}

TEST(SelectTrainedTest, TokensBesideLoraOnTheSameTableAreRefusedAsInPeft) {
  TrainConfig config = OnLayer0();
  config.adapter.trainable_tokens = {{"", {3}}};
  config.adapter.target_names = {"embed_tokens"};
  EXPECT_THAT(Refusal(config), HasSubstr("adapter.trainable_token_ids: with model.embed_tokens in adapter.targets"));
  config.adapter.target_names = {"lm_head"};
  EXPECT_THAT(Trained(config, TwoLayers(true)), ElementsAre("lm_head: pair 3 tied", "model.embed_tokens: 3"));
  config.adapter.use_dora = true;
  EXPECT_THAT(Refusal(config, TwoLayers(true)),
              HasSubstr("adapter.trainable_token_ids: with lm_head in adapter.targets"));
  config.adapter.use_dora = false;
  config.adapter.trainable_tokens = {{"lm_head", {3}}};
  EXPECT_THAT(Refusal(config), HasSubstr("adapter.trainable_head_token_ids: with lm_head in adapter.targets"));
}

TEST(SelectTrainedTest, WhatCannotBeIsRefusedByName) {
  TrainConfig config = OnLayer0();
  config.adapter.modules_to_save = {"k_proj"};
  EXPECT_THAT(Refusal(config), HasSubstr("adapter.modules_to_save: k_proj; limit"));
  config.adapter.modules_to_save = {"layers.1.q_proj"};
  EXPECT_THAT(Refusal(config), HasSubstr("adapter.modules_to_save: layers.1.q_proj: model.layers.1.q_proj; limit"));
  config.adapter.modules_to_save = {"embed_tokens"};
  config.adapter.trainable_tokens = {{"", {3}}};
  EXPECT_THAT(Refusal(config), HasSubstr("adapter.trainable_token_ids: with model.embed_tokens"));
  config.adapter.modules_to_save = {};
  config.adapter.trainable_tokens = {{"", {3, 50}}};
  EXPECT_THAT(Refusal(config), HasSubstr("adapter.trainable_token_ids: 50; limit: 0 to 49"));
  config.adapter.trainable_tokens = {{"", {3, 4, 3}}};
  EXPECT_THAT(Refusal(config), HasSubstr("adapter.trainable_token_ids: 3 twice"));
  config.adapter.trainable_tokens = {};
  config.init = LeafInit::kPissa;
  config.adapter.rank = 9;
  EXPECT_THAT(Refusal(config), HasSubstr("adapter.rank: 9; limit: 8"));
}

TEST(SelectTrainedTest, AllLinearsOfARoutedBaseAreThoseInNoExpert) {
  BaseShape base = TwoLayers(/*tied=*/false);
  base.model_type = "mixtral";
  base.sites[0].module_path = "model.layers.{}.self_attn.q_proj";
  const auto add = [&](Site site, const char* module, const char* parameter) {
    base.sites.push_back({.site = site,
                          .module_path = module,
                          .in_features = 8,
                          .out_features = 8,
                          .experts = site == Site::kRouter ? 1 : 4,
                          .parameter = parameter});
  };
  add(Site::kRouter, "model.layers.{}.mlp.gate", "weight");
  add(Site::kExpertGateUp, "model.layers.{}.mlp.experts", "gate_up_proj");
  add(Site::kExpertDown, "model.layers.{}.mlp.experts", "down_proj");
  TrainConfig config;
  config.adapter.all_linear = true;
  for (const bool dora : {false, true}) {
    config.adapter.use_dora = dora;
    EXPECT_THAT(Trained(config, base),
                ElementsAre("model.layers.0.self_attn.q_proj: pair", "model.layers.1.self_attn.q_proj: pair"));
  }
  config.adapter.all_linear = config.adapter.use_dora = false;
  config.adapter.target_names = {"q_proj", "gate"};
  EXPECT_THAT(SelectTrained(config, base), IsError(absl::StatusCode::kUnimplemented, HasSubstr("experts or router")));
}

}  // namespace
}  // namespace lorad
