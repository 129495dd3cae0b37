#include "scheduler/training_credit.h"

#include <algorithm>

namespace lorad {
namespace {

constexpr double kMaxCreditUs = 200'000;  // so that a long quiet time of training is not made up for at once
constexpr double kForgets = 0.99;         // a step; a long prefill counts for about a hundred

}  // namespace

void TrainingCredit::Served(int64_t step_us) {
  const auto us = static_cast<double>(step_us);
  credit_us_ = std::min(kMaxCreditUs, credit_us_ + share_ * us);
  longest_us_ = std::max(us, kForgets * longest_us_);
}

void TrainingCredit::Trained(int64_t took_us) { credit_us_ -= static_cast<double>(took_us); }

bool TrainingCredit::MayPrecede(int64_t step_us, int64_t piece_us) const {
  // What is larger than all that can gather runs when half of that has.
  const double wants_us = std::min(static_cast<double>(piece_us), kMaxCreditUs / 2);
  if (credit_us_ <= 0 || credit_us_ < wants_us) return false;
  const bool fits = static_cast<double>(step_us + piece_us) <= (1 + share_) * longest_us_;
  return fits || credit_us_ >= 2 * wants_us;  // or it would never run where all steps are alike
}

bool TrainingCredit::MayGoOn(int64_t turn_us, int64_t piece_us) const {
  return static_cast<double>(turn_us + piece_us) <= std::min(credit_us_, share_ * longest_us_);
}

}  // namespace lorad
