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

// Compares what a request got in a batch with what it got alone, and reports by gtest. Greedy tokens are equal up to the
// first step whose best two lay closer than kMinMargin alone, log-probabilities of them within kLogprobTolerance. A
// request that was cancelled has the beginning of the answer.
class BatchedEqualsAlone final {
 public:
  static constexpr double kMinMargin = 1e-3;
  static constexpr double kLogprobTolerance = 1e-4;

  struct Expectation {
    bool greedy = true;    // false: drawn with a seed; a margin says nothing
    bool complete = true;  // false: it may end early
  };
  void Compare(const std::string& what, const Answer& alone, const Answer& batched, const Expectation& expected);

  int64_t requests() const { return requests_; }
  int64_t compared_tokens() const { return compared_tokens_; }
  // Tokens behind a close decision, of which nothing is claimed.
  int64_t unclaimed_tokens() const { return unclaimed_tokens_; }
  double largest_difference() const { return largest_difference_; }

 private:
  void CompareLogprobs(const char* what, const std::vector<TokenLogprob>& alone, const std::vector<TokenLogprob>& batched,
                       size_t count);
  int64_t requests_ = 0;
  int64_t compared_tokens_ = 0;
  int64_t unclaimed_tokens_ = 0;
  double largest_difference_ = 0.0;
};

}  // namespace lorad
