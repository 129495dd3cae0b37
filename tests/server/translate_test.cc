#include "server/translate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace lorad {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelFacts Model() {
  ModelFacts model;
  model.max_context_tokens = 100;
  model.vocab_size = 50;
  model.eos_token_ids = {7, 2};
  model.generation.temperature = 0.6f;
  model.generation.top_k = 20;
  return model;
}

v1::GenerateRequest TextRequest() {
  v1::GenerateRequest request;
  request.set_text("hello");
  return request;
}

std::string MessageOf(const absl::Status& status) {
  return std::string(status.message().data(), status.message().size());
}

std::string Refusal(const v1::GenerateRequest& request) {
  const absl::Status checked = CheckGenerateRequest(request);
  const absl::Status status = checked.ok() ? TranslateSampling(request, Model(), 10, 1).status() : checked;
  EXPECT_FALSE(status.ok());
  return status.ok() ? "" : MessageOf(status);
}

TEST(TranslateTest, UnsetFieldsTakeTheModelsDefaultsThenOurs) {
  const auto options = TranslateSampling(TextRequest(), Model(), 10, 99);
  ASSERT_TRUE(options.ok());
  EXPECT_FLOAT_EQ(options->temperature, 0.6f);
  EXPECT_EQ(options->top_k, 20);
  EXPECT_FLOAT_EQ(options->top_p, 1.0f);
  EXPECT_EQ(options->seed, 99u);
  EXPECT_EQ(options->max_tokens, 90);
  EXPECT_EQ(options->logprobs, -1);
  EXPECT_THAT(options->stop_token_ids, ElementsAre(2, 7));
}

TEST(TranslateTest, SetFieldsWinEvenWhenZero) {
  v1::GenerateRequest request = TextRequest();
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_top_k(0);
  request.mutable_sampling()->set_seed(0);
  request.mutable_sampling()->set_max_tokens(5);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_sampling()->add_stop_token_ids(9);
  request.set_logprobs(0);
  const auto options = TranslateSampling(request, Model(), 10, 99);
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->temperature, 0);
  EXPECT_EQ(options->top_k, 0);
  EXPECT_EQ(options->seed, 0u);
  EXPECT_EQ(options->max_tokens, 5);
  EXPECT_EQ(options->logprobs, 0);
  EXPECT_THAT(options->stop_token_ids, ElementsAre(9));
}

TEST(TranslateTest, UnsetMaxTokensIsWhatTheContextLeaves) {
  EXPECT_EQ(TranslateSampling(TextRequest(), Model(), 99, 1)->max_tokens, 1);
  EXPECT_THAT(MessageOf(TranslateSampling(TextRequest(), Model(), 100, 1).status()),
              HasSubstr("prompt tokens: 100; limit: 99"));
}

TEST(TranslateTest, PromptLogprobsAreBoundedForAllAnswersTogether) {
  ModelFacts model = Model();
  model.max_context_tokens = 40'000;
  v1::GenerateRequest request = TextRequest();
  request.set_prompt_logprobs(20);
  EXPECT_TRUE(TranslateSampling(request, model, 30'000, 1).ok());
  request.mutable_sampling()->set_n(2);
  EXPECT_THAT(MessageOf(TranslateSampling(request, model, 30'000, 1).status()),
              HasSubstr("2 x 30000 x (1 + 20); limit: 1048576"));
  request.clear_prompt_logprobs();
  EXPECT_TRUE(TranslateSampling(request, model, 30'000, 1).ok());
}

TEST(TranslateTest, EveryFieldOutOfItsLimitsIsNamed) {
  struct Case {
    const char* expected;
    void (*change)(v1::GenerateRequest*);
  };
  const Case cases[] = {
      {"temperature: -1; limit: 0 to 100", [](auto* r) { r->mutable_sampling()->set_temperature(-1); }},
      {"temperature: nan", [](auto* r) { r->mutable_sampling()->set_temperature(std::nanf("")); }},
      {"temperature: inf",
       [](auto* r) { r->mutable_sampling()->set_temperature(std::numeric_limits<float>::infinity()); }},
      {"top_p: 0; limit: above 0", [](auto* r) { r->mutable_sampling()->set_top_p(0); }},
      {"top_p: 1.5", [](auto* r) { r->mutable_sampling()->set_top_p(1.5f); }},
      {"min_p: 2", [](auto* r) { r->mutable_sampling()->set_min_p(2); }},
      {"repetition_penalty: 0; limit: 0.01 to 100", [](auto* r) { r->mutable_sampling()->set_repetition_penalty(0); }},
      {"repetition_penalty: 9.99995e-41", [](auto* r) { r->mutable_sampling()->set_repetition_penalty(1e-40f); }},
      {"repetition_penalty: 101", [](auto* r) { r->mutable_sampling()->set_repetition_penalty(101); }},
      {"presence_penalty: 3", [](auto* r) { r->mutable_sampling()->set_presence_penalty(3); }},
      {"frequency_penalty: -3", [](auto* r) { r->mutable_sampling()->set_frequency_penalty(-3); }},
      {"max_tokens: 0; limit: 1", [](auto* r) { r->mutable_sampling()->set_max_tokens(0); }},
      {"min_tokens: 9; limit: 0 to 8",
       [](auto* r) {
         r->mutable_sampling()->set_max_tokens(8);
         r->mutable_sampling()->set_min_tokens(9);
       }},
      {"n: 0; limit: 1 to 64", [](auto* r) { r->mutable_sampling()->set_n(0); }},
      {"n: 65", [](auto* r) { r->mutable_sampling()->set_n(65); }},
      {"stop bytes: 0", [](auto* r) { r->mutable_sampling()->add_stop(std::string()); }},
      {"stop strings: 65",
       [](auto* r) {
         for (int i = 0; i < 65; ++i) r->mutable_sampling()->add_stop(std::string("x"));
       }},
      {"stop_token_ids: 50; limit: below 50", [](auto* r) { r->mutable_sampling()->add_stop_token_ids(50); }},
      {"logit_bias token: 50", [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[50] = 1; }},
      {"logit_bias value: 101", [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[1] = 101; }},
      {"logprobs: 21; limit: 0 to 20", [](auto* r) { r->set_logprobs(21); }},
      {"prompt_logprobs: 21", [](auto* r) { r->set_prompt_logprobs(21); }},
      {"prompt: empty", [](auto* r) { r->set_text(std::string()); }},
      {"prompt: empty", [](auto* r) { r->mutable_token_ids(); }},
      {"prompt: empty", [](auto* r) { r->clear_prompt(); }},
      {"request_id character: 10", [](auto* r) { r->set_request_id(std::string("a\nb")); }},
      {"request_id bytes: 129", [](auto* r) { r->set_request_id(std::string(129, 'x')); }},
      {"adapter and adapters",
       [](auto* r) {
         r->set_adapter(std::string("a"));
         r->add_adapters()->set_name(std::string("b"));
       }},
      {"adapters: 9; limit: 0 to 8",
       [](auto* r) {
         for (char name = 'a'; name < 'j'; ++name) r->add_adapters()->set_name(std::string(1, name));
       }},
      {"adapters: a twice",
       [](auto* r) {
         r->add_adapters()->set_name(std::string("a"));
         r->add_adapters()->set_name(std::string("a"));
       }},
      {"adapters name: empty", [](auto* r) { r->add_adapters()->set_scale(1); }},
      {"adapters scale: nan",
       [](auto* r) {
         r->add_adapters()->set_name(std::string("a"));
         r->mutable_adapters(0)->set_scale(std::nanf(""));
       }},
      {"adapters scale: 1001; limit: -1000 to 1000",
       [](auto* r) {
         r->add_adapters()->set_name(std::string("a"));
         r->mutable_adapters(0)->set_scale(1001);
       }},
  };
  for (const Case& c : cases) {
    v1::GenerateRequest request = TextRequest();
    c.change(&request);
    EXPECT_THAT(Refusal(request), HasSubstr(c.expected));
  }
}

TEST(TranslateTest, ACompositionKeepsItsOrderAndScales) {
  v1::GenerateRequest proto = TextRequest();
  proto.add_adapters()->set_name("b");
  v1::WeightedAdapter* second = proto.add_adapters();
  second->set_name("a");
  second->set_scale(-0.5f);
  ASSERT_TRUE(CheckGenerateRequest(proto).ok());
  Request request;
  TranslateAdapters(proto, &request);
  EXPECT_EQ(request.adapter, "b");
  ASSERT_EQ(request.composition.size(), 2u);
  EXPECT_EQ(request.composition[0].name, "b");
  EXPECT_EQ(request.composition[0].scale, 1.0f);
  EXPECT_EQ(request.composition[1].name, "a");
  EXPECT_EQ(request.composition[1].scale, -0.5f);
}

TEST(TranslateTest, OneAdapterAtScaleOneIsNoComposition) {
  v1::GenerateRequest proto = TextRequest();
  proto.add_adapters()->set_name("a");
  Request request;
  TranslateAdapters(proto, &request);
  EXPECT_EQ(request.adapter, "a");
  EXPECT_TRUE(request.composition.empty());
  proto.mutable_adapters(0)->set_scale(0.0f);
  request = Request();
  TranslateAdapters(proto, &request);
  ASSERT_EQ(request.composition.size(), 1u);
  EXPECT_EQ(request.composition[0].scale, 0.0f);
}

TEST(TranslateTest, ARevisionIsNamedByItsDigest) {
  v1::GenerateRequest request = TextRequest();
  request.set_adapter("a@3f");
  EXPECT_TRUE(CheckGenerateRequest(request).ok()) << CheckGenerateRequest(request);
  for (const char* wrong : {"a@", "a@latest", "a@3/..", "a@3@4"}) {
    request.set_adapter(wrong);
    EXPECT_EQ(CheckGenerateRequest(request).code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_THAT(MessageOf(CheckGenerateRequest(request)), HasSubstr(wrong));
  }
}

TEST(TranslateTest, AdapterNamesAreCheckedBeforeTheyAreRepeated) {
  for (const std::string& name : {std::string(9000, 'a'), "a@" + std::string(9000, '1'), std::string(9000, 'a') + "@1",
                                  std::string("@1"), std::string("../a"), std::string("a\nb")}) {
    const absl::Status status = CheckRequestedAdapter(name);
    EXPECT_FALSE(status.ok()) << name;
    EXPECT_LT(status.message().size(), 1000u);
  }
  EXPECT_EQ(CheckRequestedAdapter("").code(), absl::StatusCode::kOk);
  EXPECT_EQ(CheckRequestedAdapter("team/a:1").code(), absl::StatusCode::kOk);
}

TEST(TranslateTest, TextThatCannotFitTheContextIsRefused) {
  EXPECT_EQ(CheckText(std::string(1600, 'x'), Model()).code(), absl::StatusCode::kOk);
  EXPECT_THAT(MessageOf(CheckText(std::string(1601, 'x'), Model())), HasSubstr("text bytes: 1601; limit: 0 to 1600"));
}

TEST(TranslateTest, MoreIdsThanAContextAreNotDecodedAtOnce) {
  EXPECT_EQ(CheckIdsToDecode(100, Model()).code(), absl::StatusCode::kOk);
  EXPECT_THAT(MessageOf(CheckIdsToDecode(101, Model())), HasSubstr("token_ids: 101; limit: 0 to 100"));
}

TEST(TranslateTest, IdsStayBelowTheVocabulary) {
  google::protobuf::RepeatedField<uint32_t> ids;
  ids.Add(0);
  ids.Add(49);
  EXPECT_THAT(*TranslateIds(ids, 50, "token_ids"), ElementsAre(0, 49));
  ids.Add(4294967295u);
  EXPECT_THAT(MessageOf(TranslateIds(ids, 50, "token_ids").status()),
              HasSubstr("token_ids: 4294967295; limit: below 50"));
}

}  // namespace
}  // namespace lorad
