#pragma once

#include <cstdint>

namespace lorad {

// Monotonic microseconds; tests put a clock they turn by hand in its place.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t NowUs() const = 0;
};

class SteadyClock final : public Clock {
 public:
  int64_t NowUs() const override;
};

}  // namespace lorad
