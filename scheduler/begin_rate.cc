#include "scheduler/begin_rate.h"

#include <cmath>
#include <utility>

namespace lorad {

void BeginRate::NoteTurn(int64_t now_us, bool some_wait, int64_t memory_us) {
  const int64_t begun = std::exchange(begun_now_, 0);
  if (some_waited_ && last_us_ >= 0) {
    const double elapsed_us = static_cast<double>(now_us - last_us_);
    const double kept = std::exp(-elapsed_us / static_cast<double>(memory_us));
    elapsed_us_ = kept * elapsed_us_ + elapsed_us;
    begun_ = kept * begun_ + static_cast<double>(begun);
  }
  last_us_ = now_us;
  some_waited_ = some_wait;
}

int64_t BeginRate::PredictUs(int64_t waiting) const {
  if (elapsed_us_ <= 0.0) return 0;
  // Who has not seen one begin can say no more than that it takes longer than this.
  const double begun = begun_ < 1.0 ? 1.0 : begun_;
  return static_cast<int64_t>(static_cast<double>(waiting) * elapsed_us_ / begun);
}

}  // namespace lorad
