#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/support/engine_fixture.h"

namespace lorad::bench {

// What one model answers to a request, to be compared with what it answers by other kernels.
struct FormAnswer {
  std::vector<int32_t> ids;      // that it got
  std::vector<float> of_prompt;  // log-probabilities of the prompt's tokens but the first
  std::vector<float> of_tokens;  // of those that it got
};
// Greedy and to its length, with both sorts of log-probabilities, which know nothing of biases.
SamplingOptions SamplingToCompare(int64_t tokens);
FormAnswer AnswerOf(const Recording& recording);

// `count` prompts' tokens below `vocab`, the same each time. The first half of each depends on `beginning`, the second
// does not.
std::vector<std::vector<int32_t>> PromptsToCompare(const std::vector<int64_t>& lengths, int64_t vocab,
                                                   int32_t beginning);

// Between two models' or forms' log-probabilities.
struct Differences {
  double most = 0.0, sum = 0.0;
  int64_t count = 0;

  void Add(double difference) {
    most = std::isnan(difference) ? INFINITY : std::max(most, difference);
    sum += difference;
    ++count;
  }
  double mean() const { return sum / static_cast<double>(std::max<int64_t>(1, count)); }
};
// Of the second halves of the prompts, whose tokens are the same.
Differences OfPrompts(const std::vector<FormAnswer>& a, const std::vector<FormAnswer>& b);
// Of the tokens that decode, as long as both have the same before them.
Differences OfTokens(const std::vector<FormAnswer>& a, const std::vector<FormAnswer>& b);

}  // namespace lorad::bench
