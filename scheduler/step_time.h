#pragma once

#include <cstdint>
#include <optional>

namespace lorad {

// How long a step takes: a + b * tokens, fitted to the steps seen, the newest weighing most (exponentially weighted
// least squares). Gives the tokens that fit the target time, so that a cancel or a new request never waits for a long
// prefill.
class StepTimeModel final {
 public:
  void Observe(int64_t tokens, int64_t execute_us);
  // Tokens of a step of at most `target_us`: at least `least_tokens`, at most `most_tokens`.
  int64_t TokensFor(int64_t target_us, int64_t least_tokens, int64_t most_tokens) const;
  // How long a step of so many tokens takes; none while the steps seen are too alike to tell.
  std::optional<int64_t> PredictUs(int64_t tokens) const;

 private:
  struct Line {
    double fixed_us;
    double us_a_token;
    bool guessed;  // as if time were all in the tokens
  };
  Line Fit() const;  // weight_ > 0
  double weight_ = 0.0;
  double tokens_ = 0.0;
  double us_ = 0.0;
  double tokens_tokens_ = 0.0;
  double tokens_us_ = 0.0;
};

}  // namespace lorad
