#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <map>
#include <string>

#include "scheduler/observer.h"

namespace lorad {

// The series of steps on a device: how they ran, and the graphs that are held for them. On the CPU there are none.
//
// Threads  one at a time.
class DeviceSeries final {
 public:
  // `registry` outlives it; `labels` are every series'.
  DeviceSeries(prometheus::Registry* registry, const std::map<std::string, std::string>& labels);

  void Observe(const StepStats& step);

 private:
  prometheus::Family<prometheus::Counter>& steps_;
  prometheus::Family<prometheus::Counter>& steps_behind_;
  prometheus::Family<prometheus::Gauge>& graphs_;
  prometheus::Family<prometheus::Gauge>& graph_bytes_;
};

}  // namespace lorad
