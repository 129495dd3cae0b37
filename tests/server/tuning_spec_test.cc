#include "server/tuning/tuning_spec.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

using ::testing::HasSubstr;

constexpr int kTooMany = 4097;

v1::FineTuneSpec Spec() {
  v1::FineTuneSpec spec;
  spec.set_name("a");
  spec.mutable_dataset()->add_lines("{}");
  return spec;
}

// The words of the refusal; "": taken.
std::string Refusal(const v1::FineTuneSpec& spec) {
  ModelFacts model;
  model.architecture = "LlamaForCausalLM";
  model.hidden_size = 64;
  model.max_context_tokens = 128;
  return std::string(TranslateSpec(spec, model).status().message());
}

TEST(TuningSpecTest, WhatThereIsNoReasonToListIsRefusedByItsLength) {
  for (const char* kind : {"lora", "mixlora"}) {
    v1::FineTuneSpec spec = Spec();
    spec.mutable_adapter()->set_kind(kind);
    for (int i = 0; i < kTooMany; ++i) spec.mutable_adapter()->add_targets(absl::StrCat("t", i));
    EXPECT_THAT(Refusal(spec), HasSubstr("adapter.targets: 4097; limit: 0 to 4096"));
  }
  v1::FineTuneSpec layers = Spec(), ranks = Spec(), alphas = Spec();
  for (int i = 0; i < kTooMany; ++i) {
    layers.mutable_adapter()->add_layers(static_cast<uint32_t>(i));
    (*ranks.mutable_adapter()->mutable_rank_pattern())[absl::StrCat("t", i)] = 1;
    (*alphas.mutable_adapter()->mutable_alpha_pattern())[absl::StrCat("t", i)] = 1;
  }
  EXPECT_THAT(Refusal(layers), HasSubstr("adapter.layers: 4097; limit: 0 to 4096"));
  EXPECT_THAT(Refusal(ranks), HasSubstr("adapter.rank_pattern: 4097; limit: 0 to 4096"));
  EXPECT_THAT(Refusal(alphas), HasSubstr("adapter.alpha_pattern: 4097; limit: 0 to 4096"));
}

TEST(TuningSpecTest, RanksThatAreSavedTwiceAreHalfAsLarge) {
  for (const auto& [init, most] : {std::pair("default", 512), std::pair("pissa", 256), std::pair("olora", 256)}) {
    v1::FineTuneSpec spec = Spec();
    spec.mutable_adapter()->set_init(init);
    uint32_t& rank = (*spec.mutable_adapter()->mutable_rank_pattern())["q_proj"];
    rank = static_cast<uint32_t>(most);
    EXPECT_EQ(Refusal(spec), "") << init;
    ++rank;
    EXPECT_THAT(Refusal(spec), HasSubstr(absl::StrCat("adapter.rank_pattern: ", most + 1, "; limit: 1 to ", most)));
    rank = 1;
    spec.mutable_adapter()->set_rank(static_cast<uint32_t>(most) + 1);
    EXPECT_THAT(Refusal(spec), HasSubstr(absl::StrCat("adapter.rank: ", most + 1, "; limit: 1 to ", most)));
  }
}

TEST(TuningSpecTest, AnAlphaOfAPatternIsANumberAboveZero) {
  v1::FineTuneSpec spec = Spec();
  float& alpha = (*spec.mutable_adapter()->mutable_alpha_pattern())["q_proj"];
  alpha = 8.0f;
  EXPECT_EQ(Refusal(spec), "");
  for (const float wrong : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    alpha = wrong;
    EXPECT_THAT(Refusal(spec), HasSubstr("adapter.alpha_pattern: ")) << wrong;
  }
}

}  // namespace
}  // namespace lorad
