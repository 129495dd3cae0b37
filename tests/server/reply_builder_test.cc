#include "server/reply_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace lorad {
namespace {

using ::testing::ElementsAre;

PieceDecoder Letters() {
  return {[](int32_t id) { return std::string(1, static_cast<char>('a' + id)); }, [] { return std::string(); }};
}

TokenEvent Tokens(int32_t index, std::vector<int32_t> ids) {
  TokenEvent event;
  event.index = index;
  for (const int32_t id : ids) event.tokens.push_back({id, -0.5f, {{id, -0.5f}}});
  return event;
}

TokenEvent Ending(TokenEvent event, FinishReason reason, std::string detail = "") {
  event.finish =
      Finish{absl::OkStatus(), reason, std::move(detail), Usage{3, static_cast<int64_t>(event.tokens.size()), 0}};
  return event;
}

TokenEvent NeverBegun(int32_t index, absl::Status status) {
  TokenEvent event;
  event.index = index;
  event.finish = Finish{std::move(status), FinishReason::kAbort, "", {}};
  return event;
}

ReplyBuilder Builder(int32_t n, SamplingOptions sampling = {}) {
  return ReplyBuilder(n, 3, std::move(sampling), Letters);
}

TEST(ReplyBuilderTest, DeltasThenOneEndWithUsage) {
  ReplyBuilder builder = Builder(1);
  EXPECT_EQ(builder.Build(Tokens(0, {0, 1})).messages[0].text(), "ab");
  EXPECT_FALSE(builder.complete());
  const auto reply = builder.Build(Ending(Tokens(0, {2}), FinishReason::kLength));
  ASSERT_EQ(reply.messages.size(), 1u);
  EXPECT_EQ(reply.messages[0].text(), "c");
  EXPECT_EQ(reply.messages[0].finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(reply.messages[0].usage().prompt_tokens(), 3u);
  EXPECT_EQ(reply.messages[0].usage().completion_tokens(), 3u);
  EXPECT_TRUE(builder.complete());
  EXPECT_TRUE(builder.status().ok());
}

TEST(ReplyBuilderTest, AStopStringEndsTheSequenceAndDropsWhatFollows) {
  SamplingOptions sampling;
  sampling.stop = {"bc"};
  ReplyBuilder builder = Builder(1, sampling);
  TokenEvent first = Tokens(0, {0, 1});
  first.cached_tokens = 16;
  EXPECT_EQ(builder.Build(first).messages[0].text(), "a");
  const auto reply = builder.Build(Tokens(0, {2, 3}));
  EXPECT_TRUE(reply.stopped);
  EXPECT_EQ(reply.messages[0].text(), "");
  EXPECT_THAT(reply.messages[0].token_ids(), ElementsAre(2));
  EXPECT_EQ(reply.messages[0].finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(reply.messages[0].usage().completion_tokens(), 3u);
  EXPECT_EQ(reply.messages[0].usage().cached_tokens(), 16u);
  EXPECT_TRUE(builder.Build(Tokens(0, {4})).messages.empty());
  EXPECT_TRUE(builder.Build(Ending(Tokens(0, {5}), FinishReason::kAbort)).messages.empty());
  EXPECT_TRUE(builder.complete());
}

TEST(ReplyBuilderTest, TheStopTokenIsAmongTheIdsAndNotInTheText) {
  SamplingOptions sampling;
  sampling.stop_token_ids = {4};
  ReplyBuilder builder = Builder(1, sampling);
  const auto reply = builder.Build(Ending(Tokens(0, {0, 4}), FinishReason::kStop));
  EXPECT_EQ(reply.messages[0].text(), "a");
  EXPECT_THAT(reply.messages[0].token_ids(), ElementsAre(0, 4));
}

TEST(ReplyBuilderTest, LogprobsComeOnlyWhenAskedFor) {
  ReplyBuilder without = Builder(1);
  EXPECT_EQ(without.Build(Tokens(0, {0})).messages[0].logprobs_size(), 0);
  SamplingOptions sampling;
  sampling.logprobs = 1;
  ReplyBuilder with = Builder(1, sampling);
  TokenEvent event = Tokens(0, {0});
  event.prompt_logprobs = {{5, 0, {}}, {6, -1.5f, {}}};
  const v1::GenerateResponse message = with.Build(event).messages[0];
  ASSERT_EQ(message.logprobs_size(), 1);
  EXPECT_FLOAT_EQ(message.logprobs(0).logprob(), -0.5f);
  ASSERT_EQ(message.prompt_logprobs_size(), 2);
  EXPECT_FALSE(message.prompt_logprobs(0).has_logprob());
  EXPECT_FLOAT_EQ(message.prompt_logprobs(1).logprob(), -1.5f);
}

TEST(ReplyBuilderTest, ARequestNeverBegunEndsInItsStatus) {
  ReplyBuilder builder = Builder(2);
  EXPECT_TRUE(builder.Build(NeverBegun(0, absl::NotFoundError("adapter: x"))).messages.empty());
  EXPECT_FALSE(builder.complete());
  EXPECT_TRUE(builder.Build(NeverBegun(1, absl::NotFoundError("adapter: x"))).messages.empty());
  EXPECT_TRUE(builder.complete());
  EXPECT_EQ(builder.status().code(), absl::StatusCode::kNotFound);
}

TEST(ReplyBuilderTest, ASequenceNeverBegunBesideOneThatDidEndsAsAborted) {
  ReplyBuilder builder = Builder(3);
  builder.Build(NeverBegun(1, absl::UnavailableError("draining")));
  const auto first = builder.Build(Tokens(0, {0}));
  ASSERT_EQ(first.messages.size(), 2u);
  EXPECT_EQ(first.messages[0].index(), 1u);
  EXPECT_EQ(first.messages[0].finish_reason(), v1::FINISH_REASON_ABORT);
  EXPECT_EQ(first.messages[0].abort_detail(), "draining");
  EXPECT_EQ(builder.Build(NeverBegun(2, absl::UnavailableError("draining"))).messages.size(), 1u);
  builder.Build(Ending(Tokens(0, {}), FinishReason::kStop));
  EXPECT_TRUE(builder.complete());
  EXPECT_TRUE(builder.status().ok());
}

TEST(ReplyBuilderTest, AbortRestEndsEachOpenSequenceOnce) {
  ReplyBuilder builder = Builder(3);
  builder.Build(Ending(Tokens(1, {0}), FinishReason::kLength));
  const auto messages = builder.AbortRest("client reads too slowly");
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].index(), 0u);
  EXPECT_EQ(messages[1].index(), 2u);
  EXPECT_EQ(messages[0].abort_detail(), "client reads too slowly");
  EXPECT_TRUE(builder.complete());
  EXPECT_TRUE(builder.AbortRest("again").empty());
}

}  // namespace
}  // namespace lorad
