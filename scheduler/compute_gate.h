#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>

namespace lorad {

// Whose turn it is to use the model: serving's steps or training's slices, one at a time. Serving comes first: while
// steps follow one another, training may take `share` of serving's time on top, slice by slice; when none has run for
// a moment, all of it.
//
// Threads  the engine's takes serving's turns, one trainer takes training's.
class ComputeGate final {
 public:
  // share >= 0, of serving's time: 0.2 lets the time between tokens grow by a fifth on average.
  explicit ComputeGate(double share) : share_(share) {}

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
    const int64_t began_us_;
  };

  // Waits for the slice that runs, or that was promised the turn.
  Turn EnterServing();
  // Waits until training may run.
  Turn EnterTraining();

  struct Shares {
    int64_t serving_us = 0;
    int64_t training_us = 0;
    int64_t yields = 0;  // slices that had to wait for serving
  };
  Shares shares() const;

 private:
  enum class Owner : uint8_t { kNobody, kServing, kTraining };

  void Leave(bool serving, int64_t began_us);
  bool ServingIsIdle(int64_t now_us) const;
  bool TrainingMayEnter(int64_t now_us) const;

  const double share_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Owner owner_ = Owner::kNobody;
  bool trainer_waits_ = false;
  bool promised_ = false;  // the next turn is training's
  int serving_waits_ = 0;
  int64_t last_serving_us_ = -(int64_t{1} << 60);  // when its last turn ended
  double credit_us_ = 0;                           // what training may still take beside serving
  Shares shares_;
};

}  // namespace lorad
