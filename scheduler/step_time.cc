#include "scheduler/step_time.h"

#include <algorithm>

namespace lorad {
namespace {

constexpr double kDecay = 0.95;          // half of the weight lies in the last 14 steps
constexpr double kLeastSpread = 1.0;     // variance of tokens below which no slope can be told
constexpr int64_t kUnknownTokens = 128;  // a first step, before anything was measured

}  // namespace

void StepTimeModel::Observe(int64_t tokens, int64_t execute_us) {
  if (tokens <= 0) return;
  const double x = static_cast<double>(tokens);
  const double y = static_cast<double>(execute_us);
  weight_ = kDecay * weight_ + 1.0;
  tokens_ = kDecay * tokens_ + x;
  us_ = kDecay * us_ + y;
  tokens_tokens_ = kDecay * tokens_tokens_ + x * x;
  tokens_us_ = kDecay * tokens_us_ + x * y;
}

int64_t StepTimeModel::TokensFor(int64_t target_us, int64_t least_tokens, int64_t most_tokens) const {
  const auto bounded = [&](double tokens) {
    if (tokens >= static_cast<double>(most_tokens)) return most_tokens;
    return std::max(std::min(least_tokens, most_tokens), static_cast<int64_t>(tokens));
  };
  if (weight_ == 0.0) return bounded(static_cast<double>(kUnknownTokens));
  const Line line = Fit();
  if (line.us_a_token <= 0.0) return most_tokens;
  return bounded((static_cast<double>(target_us) - line.fixed_us) / line.us_a_token);
}

std::optional<int64_t> StepTimeModel::PredictUs(int64_t tokens) const {
  if (weight_ == 0.0) return std::nullopt;
  const Line line = Fit();
  if (line.guessed) return std::nullopt;
  return static_cast<int64_t>(line.fixed_us + line.us_a_token * static_cast<double>(tokens));
}

StepTimeModel::Line StepTimeModel::Fit() const {
  const double mean_tokens = tokens_ / weight_;
  const double mean_us = us_ / weight_;
  const double variance = tokens_tokens_ / weight_ - mean_tokens * mean_tokens;
  double slope = 0.0;
  if (variance > kLeastSpread) slope = (tokens_us_ / weight_ - mean_tokens * mean_us) / variance;
  const double fixed = mean_us - slope * mean_tokens;
  // Too alike, or noise: as if time were all in the tokens, which errs to the side of short steps.
  if (slope <= 0.0 || fixed < 0.0) {
    return {.fixed_us = 0.0, .us_a_token = mean_us / mean_tokens, .guessed = slope <= 0.0};
  }
  return {.fixed_us = fixed, .us_a_token = slope, .guessed = false};
}

}  // namespace lorad
