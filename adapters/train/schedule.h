#pragma once

#include <cstdint>

#include "adapters/train/train_config.h"

namespace lorad {

// What the learning rate of optimizer step `step` (from 0) is multiplied by. Source: transformers
// optimization.py, get_constant_schedule_with_warmup, get_linear_…, get_cosine_….
double ScheduleFactor(const ScheduleConfig& config, int64_t step, int64_t total_steps);

}  // namespace lorad
