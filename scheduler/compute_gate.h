#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>

#include "scheduler/training_credit.h"

namespace lorad {

// Whose turn it is to use the model: serving's steps or training's slices, one at a time. Serving comes first: while
// steps follow one another, training may take `share` of serving's time on top, piece by piece; a piece waits until
// enough of it has gathered and the step that comes is not a long one (scheduler/training_credit.h). When no step has
// run for a moment, training has all of the time.
//
// Threads  the engine's takes serving's turns, whoever trains takes training's, one at a time (TrainingPace).
class ComputeGate final {
 public:
  // share >= 0, of serving's time: 0.2 lets the time between tokens grow by a fifth on average.
  explicit ComputeGate(double share) : credit_(share) {}

  class Turn final {
   public:
    ~Turn() {
      if (gate_ != nullptr) gate_->Leave(serving_, began_us_);
    }
    Turn(Turn&& other) noexcept
        : gate_(std::exchange(other.gate_, nullptr)), serving_(other.serving_), began_us_(other.began_us_) {}
    Turn& operator=(Turn&&) = delete;

   private:
    friend class ComputeGate;
    Turn(ComputeGate* gate, bool serving, int64_t began_us) : gate_(gate), serving_(serving), began_us_(began_us) {}
    ComputeGate* gate_;  // null: moved from
    const bool serving_;
    int64_t began_us_;
  };

  // Waits for the slice that runs, and for a piece that is due. `expected_us`: how long the step will take, 0 where
  // that is not known.
  Turn EnterServing(int64_t expected_us = 0);
  // Waits until training may run for `expected_us`.
  Turn EnterTraining(int64_t expected_us = 0);
  // In a turn of training, before a piece that takes about `expected_us`: where serving waits and the piece is more
  // than training may take before one step, lets serving go first and waits for another turn.
  void YieldIfDue(int64_t expected_us, Turn* training);

  // Training waits for a turn; serving should not make its own longer than a step.
  bool TrainingWaits() const;
  // While it is on, training gets a piece after every step, whatever its share: somebody waits for it to let go.
  void Hurry(bool on);

  struct Shares {
    int64_t serving_us = 0;
    int64_t training_us = 0;
    int64_t yields = 0;  // pieces that had to wait for serving
  };
  Shares shares() const;

 private:
  enum class Owner : uint8_t { kNobody, kServing, kTraining };

  void Leave(bool serving, int64_t began_us);
  void LeaveLocked(bool serving, int64_t now_us, int64_t began_us);
  void AwaitTraining(int64_t expected_us, std::unique_lock<std::mutex>* lock);
  bool ServingIsIdle(int64_t now_us) const;
  bool TrainingMayEnter(int64_t now_us) const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Owner owner_ = Owner::kNobody;
  bool trainer_waits_ = false;
  int64_t trainer_wants_us_ = 0;  // for its next piece, while it waits
  bool hurry_ = false;
  bool promised_ = false;  // the next turn is training's
  int serving_waits_ = 0;
  int64_t last_serving_us_ = -(int64_t{1} << 60);  // when its last turn ended
  TrainingCredit credit_;
  Shares shares_;
};

}  // namespace lorad
