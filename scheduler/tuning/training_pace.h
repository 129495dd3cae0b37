#pragma once

#include <cstdint>
#include <functional>

#include "scheduler/compute_gate.h"
#include "scheduler/step_time.h"

namespace lorad {

// Runs slices of training at the gate's turns, and between the pieces of a slice (model/ops/pieces.h) lets serving go
// first where the next one, by what such pieces took so far, is more than training has left.
//
// Threads  the trainer's.
class TrainingPace final {
 public:
  explicit TrainingPace(ComputeGate* gate) : gate_(gate) {}

  // Calls `slice` in a turn of training; what it does outside of announced pieces should be short.
  void Run(const std::function<void()>& slice);

 private:
  void BeforePiece(int64_t products, ComputeGate::Turn* turn);

  ComputeGate* const gate_;
  StepTimeModel time_;          // of millions of products
  int64_t last_products_ = -1;  // of the piece under way; -1: none
  int64_t last_began_us_ = 0;
  int64_t expected_us_ = 0;  // of it
};

}  // namespace lorad
