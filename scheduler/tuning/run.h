#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "adapters/train/training_run.h"
#include "scheduler/tuning/run_pass.h"
#include "scheduler/tuning/run_queue.h"

namespace lorad {

// One of TrainingRuns.
struct Run {
  Run(std::string run_id, std::string run_name, int64_t last_sequence)
      : id(std::move(run_id)), name(std::move(run_name)), queue(last_sequence) {}

  const std::string id;
  const std::string name;
  int64_t state_bytes = 0;
  int64_t max_sequence_tokens = 0;
  RunQueue queue;  // under the mutex of TrainingRuns
  // The trainer's, but for its making.
  std::unique_ptr<TrainingRun> training;
  RunPass pass;  // of the forward and backward under way
};

}  // namespace lorad
