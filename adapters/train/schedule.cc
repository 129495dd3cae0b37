#include "adapters/train/schedule.h"

#include <algorithm>
#include <cmath>

namespace lorad {

double ScheduleFactor(const ScheduleConfig& config, int64_t step, int64_t total_steps) {
  const double at = static_cast<double>(step), warmup = static_cast<double>(config.warmup_steps);
  if (step < config.warmup_steps) return at / std::max(1.0, warmup);
  const double span = std::max(1.0, static_cast<double>(total_steps) - warmup);
  switch (config.kind) {
    case ScheduleKind::kConstant:
      return 1.0;
    case ScheduleKind::kLinear:
      return std::max(0.0, (static_cast<double>(total_steps) - at) / span);
    case ScheduleKind::kCosine:
      return std::max(0.0, 0.5 * (1.0 + std::cos(M_PI * (at - warmup) / span)));
  }
  return 1.0;
}

}  // namespace lorad
