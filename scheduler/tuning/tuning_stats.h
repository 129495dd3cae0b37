#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lorad {

// What fine-tuning does now and has done since the daemon began, for metrics.
struct TuningStats {
  struct RunningJob {
    std::string id;
    std::string adapter;
    // Of the last step; jobs without one are left out.
    double loss = 0;
    double grad_norm = 0;  // before clipping
    double learning_rate = 0;
    double tokens_per_second = 0;
    std::optional<double> router_loss = {};
  };
  std::vector<RunningJob> jobs;
  int64_t queued = 0;
  int64_t running = 0;
  int64_t paused = 0;
  int64_t steps = 0;        // since the start, like those below
  int64_t tokens = 0;       // of sequences trained on
  int64_t training_us = 0;  // of the model's time
  int64_t serving_us = 0;
  int64_t yields = 0;  // pieces of training that waited for serving
};

}  // namespace lorad
