// Requests for adapters that nobody has read yet: in the queue before their text is tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_world.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Tokenizers = std::vector<std::shared_ptr<const Tokenizer>>;

class AwaitedPromptTest : public testing::Test {
 protected:
  void SetUp() override {
    world_.Folder("poet", 7);
    folder().tokenizer = own_;
  }
  FakeFolder& folder() { return world_.loader.folders[FakeWorld::PathOf("poet")]; }

  // As the front end submits a text: the whole request, without what its prompt decides.
  static Request WithoutPrompt(Request whole) {
    whole.awaits_tokenizer = true;
    whole.prompt_ids.clear();
    return whole;
  }
  std::shared_ptr<RecordingSink> Submit(const Request& whole) {
    LORAD_CHECK(world_.Submit(WithoutPrompt(whole), FakeWorld::PathOf("poet")).ok());
    return FakeWorld::SinkOf(whole);
  }
  void Give(Request whole) {
    whole.tokenizer = own_;
    world_.inbox.Put(PromptCommand{std::move(whole)});
  }
  static std::vector<int32_t> Alone(const Request& request, int32_t index = 0) {
    SamplingOptions sampling = request.sampling;
    sampling.seed += static_cast<uint64_t>(index);
    return FakeGenerate(request.prompt_ids, 7, sampling);
  }

  const std::shared_ptr<const Tokenizer> own_ = FakeTokenizer();
  FakeWorld world_{{.config = {.max_sequences = 1, .vocab_size = kFakeVocabulary}}};
};

TEST_F(AwaitedPromptTest, IsAskedForOnceTheAdapterIsReadAndThenAnsweredAsAnyOther) {
  Request request = world_.MakeRequest("poet", 20, 6);
  request.n = 3;
  const auto sink = Submit(request);
  world_.Turn();
  EXPECT_EQ(sink->tokenizers().size(), 0u);
  world_.Settle();
  EXPECT_TRUE(sink->tokenizers() == Tokenizers{own_});
  EXPECT_FALSE(sink->finished());
  Give(request);
  world_.Settle();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(sink->answer(i).tokens, Alone(request, i)) << i;
    EXPECT_EQ(sink->answer(i).finish.usage.prompt_tokens, 20);
  }
  EXPECT_TRUE(sink->tokenizers() == Tokenizers{own_});
}

TEST_F(AwaitedPromptTest, AnAdapterThatWasReadMeanwhileIsAskedForAtOnce) {
  ASSERT_THAT(world_.Load("poet"), IsOk());
  const Request request = world_.MakeRequest("poet", 20, 6);
  const auto sink = Submit(request);
  world_.Turn();
  EXPECT_TRUE(sink->tokenizers() == Tokenizers{own_});
  Give(request);
  world_.Settle();
  EXPECT_EQ(sink->answer().tokens, Alone(request));
}

TEST_F(AwaitedPromptTest, TheBasesTokenizerIsNone) {
  folder().tokenizer = nullptr;
  const auto sink = Submit(world_.MakeRequest("poet", 20, 6));
  world_.Settle();
  EXPECT_TRUE(sink->tokenizers() == Tokenizers{nullptr});
}

TEST_F(AwaitedPromptTest, OthersRunMeanwhileAndItKeepsItsPlace) {
  const Request request = world_.MakeRequest("poet", 20, 6);
  const auto sink = Submit(request);
  const auto first = world_.Generate("", 20, 40);
  const auto second = world_.Generate("", 20, 40);  // there is one seat
  for (int i = 0; i < 10; ++i) {
    world_.AnswerLoader();
    world_.Turn();
  }
  EXPECT_GT(first->answer().tokens.size(), 5u);
  Give(request);
  while (!sink->finished() && !second->finished()) world_.Turn();
  EXPECT_EQ(sink->answer().tokens, Alone(request));
  EXPECT_THAT(second->answer().tokens, IsEmpty());
  world_.Settle();
  EXPECT_EQ(second->answer().tokens.size(), 40u);
}

TEST_F(AwaitedPromptTest, AHangingReadDelaysNobodyAndEndsByCancelOrDeadline) {
  folder().hangs = true;
  const Request cancelled = world_.MakeRequest("poet", 20, 6);
  Request late = world_.MakeRequest("poet", 20, 6);
  late.deadline_us = world_.clock.NowUs() + 1'000'000;
  const auto of_cancelled = Submit(cancelled);
  const auto of_late = Submit(late);
  const auto other = world_.Generate("", 20, 40);
  world_.Settle();
  EXPECT_EQ(other->answer().tokens.size(), 40u);
  EXPECT_FALSE(of_cancelled->finished());
  world_.inbox.Put(CancelCommand{.request = cancelled.id, .reason = "enough"});
  world_.clock.Advance(2'000'000);
  world_.Settle();
  EXPECT_TRUE(absl::IsCancelled(of_cancelled->answer().finish.status));
  EXPECT_TRUE(absl::IsDeadlineExceeded(of_late->answer().finish.status));
  EXPECT_EQ(of_late->tokenizers().size(), 0u);
  EXPECT_EQ(world_.inbox.queued_sequences(), 0);
}

TEST_F(AwaitedPromptTest, AFolderThatCannotBeReadIsTheAnswer) {
  folder().error = absl::DataLossError("tokenizer.json: cut");
  const auto sink = Submit(world_.MakeRequest("poet", 20, 6));
  world_.Settle();
  EXPECT_EQ(sink->answer().finish.status, absl::DataLossError("tokenizer.json: cut"));
  EXPECT_EQ(sink->tokenizers().size(), 0u);
}

TEST_F(AwaitedPromptTest, WhatIsWrongWithThePromptIsToldOnceItIsThere) {
  Request too_long = world_.MakeRequest("poet", 20, 6);
  too_long.prompt_ids.assign(5'000, 1);
  Request unknown_id = world_.MakeRequest("poet", 20, 6);
  unknown_id.prompt_ids = {kFakeVocabulary};
  for (const auto& [request, wanted] :
       {std::pair(too_long, "context limit: 4096"), std::pair(unknown_id, "below 997")}) {
    const auto sink = Submit(request);
    world_.Settle();
    Give(request);
    world_.Settle();
    EXPECT_TRUE(absl::IsInvalidArgument(sink->answer().finish.status));
    EXPECT_THAT(std::string(sink->answer().finish.status.message()), HasSubstr(wanted));
    EXPECT_EQ(sink->answer().finishes, 1);
  }
}

TEST_F(AwaitedPromptTest, APromptThatComesAfterTheEndIsDropped) {
  const Request request = world_.MakeRequest("poet", 20, 6);
  const auto sink = Submit(request);
  world_.inbox.Put(CancelCommand{.request = request.id, .reason = "enough"});
  Give(request);
  world_.Settle();
  EXPECT_TRUE(absl::IsCancelled(sink->answer().finish.status));
  EXPECT_EQ(sink->answer().finishes, 1);
}

TEST_F(AwaitedPromptTest, ADrainLetsItEndNormally) {
  const Request request = world_.MakeRequest("poet", 20, 6);
  const auto sink = Submit(request);
  world_.inbox.RefuseSubmits();
  world_.inbox.Put(DrainCommand{.deadline_us = world_.clock.NowUs() + 60'000'000});
  world_.Settle();
  Give(request);
  world_.Settle();
  EXPECT_EQ(sink->answer().tokens, Alone(request));
}

TEST_F(AwaitedPromptTest, InACompositionTheFirstAdaptersTokenizerCountsAndIsAskedForOnce) {
  world_.Folder("other", 8);
  for (const bool first_is_known : {false, true}) {
    Request request = world_.MakeRequest("poet", 20, 6);
    request.composition = {{"poet", 1.0f}, {first_is_known ? "other2" : "other", 0.5f}};
    if (first_is_known) world_.Folder("other2", 9);
    LORAD_CHECK(world_
                    .Submit(WithoutPrompt(request), {FakeWorld::PathOf(request.composition[0].name),
                                                     FakeWorld::PathOf(request.composition[1].name)})
                    .ok());
    const auto sink = FakeWorld::SinkOf(request);
    world_.Settle();
    EXPECT_TRUE(sink->tokenizers() == Tokenizers{own_});
    Give(request);
    world_.Settle();
    EXPECT_EQ(sink->answer().tokens.size(), 6u);
    EXPECT_TRUE(sink->answer().finish.status.ok());
  }
}

TEST_F(AwaitedPromptTest, OneWithThePromptOfATokenizerThatWasReplacedIsToBeSentAgain) {
  ASSERT_THAT(world_.Load("poet"), IsOk());
  Request request = world_.MakeRequest("poet", 20, 6);
  request.tokenizer = FakeTokenizer();
  const auto sink = FakeWorld::SinkOf(request);
  ASSERT_THAT(world_.Submit(request), IsOk());
  world_.Settle();
  EXPECT_TRUE(absl::IsUnavailable(sink->answer().finish.status));
  EXPECT_THAT(std::string(sink->answer().finish.status.message()), HasSubstr("send it again"));
}

}  // namespace
}  // namespace lorad
