#pragma once

#include <cstdint>

#include "scheduler/clock.h"

namespace lorad {

// Turned by hand.
class FakeClock final : public Clock {
 public:
  int64_t NowUs() const override { return now_us_; }
  void Advance(int64_t us) { now_us_ += us; }

 private:
  int64_t now_us_ = 1'000'000;
};

}  // namespace lorad
