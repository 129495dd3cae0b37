#include "tests/component/answer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lorad {
namespace {

double MarginOf(const TokenLogprob& token) {
  return token.top.size() < 2 ? 0.0 : static_cast<double>(token.top[0].logprob) - token.top[1].logprob;
}

// Tokens that both have and that are claimed to be equal.
size_t ClaimedTokens(const Answer& alone, const Answer& batched, const Claim& claim) {
  const size_t common = std::min(alone.tokens.size(), batched.tokens.size());
  if (!claim.greedy) return common;
  const auto close = [](const TokenLogprob& token) { return MarginOf(token) < BatchedEqualsAlone::kMinMargin; };
  const auto end = alone.tokens.begin() + static_cast<int64_t>(common);
  return static_cast<size_t>(std::find_if(alone.tokens.begin(), end, close) - alone.tokens.begin());
}

std::string DifferenceOfLogprobs(const char* what, const std::vector<TokenLogprob>& alone,
                                 const std::vector<TokenLogprob>& batched, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const double difference = std::abs(static_cast<double>(alone[i].logprob) - batched[i].logprob);
    if (difference <= BatchedEqualsAlone::kLogprobTolerance) continue;  // NaN is not
    return absl::StrCat(what, " ", i, ": alone ", alone[i].logprob, ", in the batch ", batched[i].logprob);
  }
  return "";
}

}  // namespace

std::vector<int32_t> Answer::ids() const {
  std::vector<int32_t> ids;
  for (const TokenLogprob& token : tokens) ids.push_back(token.token_id);
  return ids;
}

std::string BatchedEqualsAlone::Difference(const Answer& alone, const Answer& batched, const Claim& claim) {
  const std::vector<int32_t> alone_ids = alone.ids();
  const std::vector<int32_t> batched_ids = batched.ids();
  const size_t claimed = ClaimedTokens(alone, batched, claim);
  const bool all_claimed = claimed == std::min(alone_ids.size(), batched_ids.size());
  const bool same_length =
      alone_ids.size() == batched_ids.size() || (!claim.complete && batched_ids.size() < alone_ids.size());
  if ((all_claimed && !same_length) ||
      !std::equal(alone_ids.begin(), alone_ids.begin() + static_cast<int64_t>(claimed), batched_ids.begin())) {
    return absl::StrCat("tokens alone: ", absl::StrJoin(alone_ids, " "),
                        "\ntokens in the batch: ", absl::StrJoin(batched_ids, " "),
                        "\nsteps with a clear choice: ", claimed);
  }
  std::string difference = DifferenceOfLogprobs("logprob", alone.tokens, batched.tokens, claimed);
  const bool has_prompt = claim.complete || !batched.tokens.empty();
  if (!difference.empty() || !has_prompt) return difference;
  const size_t prompt = alone.prompt_logprobs.size();
  if (batched.prompt_logprobs.size() != prompt) {
    return absl::StrCat("prompt logprobs alone: ", prompt, ", in the batch: ", batched.prompt_logprobs.size());
  }
  return DifferenceOfLogprobs("prompt logprob", alone.prompt_logprobs, batched.prompt_logprobs, prompt);
}

void BatchedEqualsAlone::Compare(const std::string& what, const Answer& alone, const Answer& batched,
                                 const Claim& claim) {
  EXPECT_EQ(Difference(alone, batched, claim), "") << what;
  const size_t claimed = ClaimedTokens(alone, batched, claim);
  ++requests_;
  compared_tokens_ += static_cast<int64_t>(claimed);
  unclaimed_tokens_ += static_cast<int64_t>(std::min(alone.tokens.size(), batched.tokens.size()) - claimed);
}

}  // namespace lorad
