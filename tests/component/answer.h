#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/sampler/sampling_options.h"

namespace lorad {

// What a request got.
struct Answer {
  std::vector<TokenLogprob> tokens;           // with the two best alternatives
  std::vector<TokenLogprob> prompt_logprobs;  // empty unless asked for

  std::vector<int32_t> ids() const;
};

// How much of a batched answer is claimed to be the one that the request gets alone.
struct Claim {
  bool greedy = true;    // false: drawn with a seed, or with penalties, where a margin of the raw logits says nothing
  bool complete = true;  // false: it may end early (cancelled), but says nothing else
};

// The property: a request gets in a batch what it gets alone. Greedy tokens are equal up to the first step whose best
// two lay closer than kMinMargin alone, log-probabilities up to there within kLogprobTolerance.
class BatchedEqualsAlone final {
 public:
  static constexpr double kMinMargin = 1e-3;
  static constexpr double kLogprobTolerance = 1e-4;

  // Where they differ, or "".
  static std::string Difference(const Answer& alone, const Answer& batched, const Claim& claim);
  // Reports a difference by gtest, and counts.
  void Compare(const std::string& what, const Answer& alone, const Answer& batched, const Claim& claim);

  int64_t requests() const { return requests_; }
  int64_t compared_tokens() const { return compared_tokens_; }
  // Tokens behind a close decision, of which nothing is claimed.
  int64_t unclaimed_tokens() const { return unclaimed_tokens_; }

 private:
  int64_t requests_ = 0;
  int64_t compared_tokens_ = 0;
  int64_t unclaimed_tokens_ = 0;
};

}  // namespace lorad
