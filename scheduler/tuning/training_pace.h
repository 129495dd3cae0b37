#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "scheduler/compute_gate.h"
#include "scheduler/step_time.h"
#include "scheduler/tuning/fair_mutex.h"

namespace lorad {

// Runs slices of training at the gate's turns, and between the pieces of a slice (model/ops/pieces.h) lets serving go
// first where the next one, by what such pieces took so far, is more than training has left. On a device, which works
// behind the host, pieces are larger, and a turn is given up when the device has done what was asked of it: what is
// measured is the device's time.
//
// Threads  any, one after the other, in the order in which they come.
class TrainingPace final {
 public:
  // `await_device` returns when the device is done; empty: there is none.
  explicit TrainingPace(ComputeGate* gate, std::function<void()> await_device = nullptr)
      : gate_(gate), await_device_(std::move(await_device)) {}

  // Calls `slice` in a turn of training; what it does outside of announced pieces should be short.
  void Run(const std::function<void()>& slice);

 private:
  void BeforePiece(int64_t products, ComputeGate::Turn* turn);

  FairMutex mutex_;  // of training's turns, and of what is measured
  ComputeGate* const gate_;
  const std::function<void()> await_device_;
  StepTimeModel time_;          // of millions of products
  int64_t last_products_ = -1;  // of the piece under way; -1: none
  int64_t last_began_us_ = 0;
  int64_t expected_us_ = 0;  // of it
};

}  // namespace lorad
