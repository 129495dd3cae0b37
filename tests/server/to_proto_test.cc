#include "server/to_proto.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "adapters/expert_load.h"

namespace lorad {
namespace {

using ::testing::ElementsAre;

TEST(ToProtoTest, StatusKeepsItsCodeAndMessage) {
  const grpc::Status status = ToGrpc(absl::ResourceExhaustedError("queue: 5; limit: 5; retry later"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "queue: 5; limit: 5; retry later");
}

TEST(ToProtoTest, AMessageThatGrpcCouldNotCarryIsCutBetweenCharacters) {
  std::string text;
  while (text.size() < 9000) text += "é";
  const std::string message = ToGrpc(absl::InvalidArgumentError("a" + text)).error_message();
  EXPECT_LT(message.size() * 3, 8192u);
  EXPECT_EQ(message, ("a" + text).substr(0, 1999) + "…");
}

TEST(ToProtoTest, EveryStateThatIsListedHasItsName) {
  const auto listed = [](AdapterState state) {
    AdapterInfo info;
    info.state = state;
    return ToProto(info).state();
  };
  EXPECT_EQ(listed(AdapterState::kLoading), v1::ADAPTER_STATE_LOADING);
  EXPECT_EQ(listed(AdapterState::kHost), v1::ADAPTER_STATE_HOST);
  EXPECT_EQ(listed(AdapterState::kResident), v1::ADAPTER_STATE_RESIDENT);
  EXPECT_EQ(listed(AdapterState::kDraining), v1::ADAPTER_STATE_DRAINING);
  EXPECT_EQ(listed(AdapterState::kFailed), v1::ADAPTER_STATE_FAILED);
  EXPECT_EQ(listed(AdapterState::kGone), v1::ADAPTER_STATE_UNSPECIFIED);
}

TEST(ToProtoTest, TheLoadOfExpertsIsPutInOnlyWhereItIsAskedFor) {
  AdapterInfo info;
  const auto load = std::make_shared<ExpertLoad>(/*layers=*/2, /*experts=*/3);
  load->Counters(1)[2] = 7;
  info.expert_load = load;
  v1::Adapter adapter = ToProto(info);
  EXPECT_EQ(adapter.expert_load_size(), 0);
  PutExpertLoad(info, &adapter);
  ASSERT_EQ(adapter.expert_load_size(), 2);
  EXPECT_EQ(adapter.expert_load(1).layer(), 1u);
  EXPECT_THAT(adapter.expert_load(1).tokens(), ElementsAre(0, 0, 7));

  v1::Adapter plain;
  PutExpertLoad(AdapterInfo(), &plain);
  EXPECT_EQ(plain.expert_load_size(), 0);
}

TEST(ToProtoTest, OfAPromptsFirstTokenThereIsNoLogprob) {
  const TokenLogprob token{.token_id = 4, .logprob = -0.5f, .top = {{9, -0.25f}, {4, -0.5f}}};
  const v1::TokenLogprob with = ToProto(token, /*with_logprob=*/true);
  EXPECT_EQ(with.token_id(), 4u);
  EXPECT_EQ(with.logprob(), -0.5f);
  ASSERT_EQ(with.top_size(), 2);
  EXPECT_EQ(with.top(0).token_id(), 9u);
  EXPECT_EQ(with.top(0).logprob(), -0.25f);

  const v1::TokenLogprob first = ToProto(token, /*with_logprob=*/false);
  EXPECT_EQ(first.token_id(), 4u);
  EXPECT_FALSE(first.has_logprob());
  EXPECT_EQ(first.top_size(), 0);
}

}  // namespace
}  // namespace lorad
