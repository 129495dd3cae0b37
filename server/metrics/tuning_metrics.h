#pragma once

#include <string>

#include "scheduler/tuning/tuning_stats.h"

namespace lorad {

// The lorad_tuning_* series as Prometheus text; server/README.md lists them.
std::string TuningMetricsText(const TuningStats& stats, const std::string& model_name);

}  // namespace lorad
