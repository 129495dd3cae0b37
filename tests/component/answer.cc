#include "tests/component/answer.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

namespace lorad {
namespace {

double MarginOf(const TokenLogprob& token) {
  return token.top.size() < 2 ? 0.0 : static_cast<double>(token.top[0].logprob) - token.top[1].logprob;
}

// Steps before the first close one.
size_t ClearSteps(const Answer& alone) {
  const auto close = [](const TokenLogprob& token) { return MarginOf(token) < BatchedEqualsAlone::kMinMargin; };
  return static_cast<size_t>(std::find_if(alone.tokens.begin(), alone.tokens.end(), close) - alone.tokens.begin());
}

}  // namespace

std::vector<int32_t> Answer::ids() const {
  std::vector<int32_t> ids;
  for (const TokenLogprob& token : tokens) ids.push_back(token.token_id);
  return ids;
}

void BatchedEqualsAlone::CompareLogprobs(const char* what, const std::vector<TokenLogprob>& alone,
                                         const std::vector<TokenLogprob>& batched, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const double difference = std::abs(static_cast<double>(alone[i].logprob) - batched[i].logprob);
    largest_difference_ = std::max(largest_difference_, difference);
    ASSERT_LE(difference, kLogprobTolerance) << what << " " << i << ": alone " << alone[i].logprob << ", in the batch "
                                             << batched[i].logprob;
  }
}

void BatchedEqualsAlone::Compare(const std::string& what, const Answer& alone, const Answer& batched,
                                 const Expectation& expected) {
  SCOPED_TRACE(what);
  ++requests_;
  if (expected.complete) {
    EXPECT_EQ(batched.tokens.size(), alone.tokens.size());
  }
  const size_t common = std::min(alone.tokens.size(), batched.tokens.size());
  const size_t claimed = expected.greedy ? std::min(common, ClearSteps(alone)) : common;
  compared_tokens_ += static_cast<int64_t>(claimed);
  unclaimed_tokens_ += static_cast<int64_t>(common - claimed);
  const std::vector<int32_t> alone_ids = alone.ids();
  const std::vector<int32_t> batched_ids = batched.ids();
  ASSERT_TRUE(std::equal(alone_ids.begin(), alone_ids.begin() + static_cast<int64_t>(claimed), batched_ids.begin()))
      << "alone: " << testing::PrintToString(alone_ids) << "\nin the batch: " << testing::PrintToString(batched_ids)
      << "\nclear steps: " << claimed;
  ASSERT_NO_FATAL_FAILURE(CompareLogprobs("logprob", alone.tokens, batched.tokens, claimed));
  if (expected.complete || !batched.prompt_logprobs.empty()) {
    ASSERT_EQ(batched.prompt_logprobs.size(), alone.prompt_logprobs.size());
    ASSERT_NO_FATAL_FAILURE(
        CompareLogprobs("prompt logprob", alone.prompt_logprobs, batched.prompt_logprobs, alone.prompt_logprobs.size()));
  }
}

}  // namespace lorad
