#include "scheduler/compute_gate.h"

#include <chrono>

namespace lorad {
namespace {

constexpr int64_t kIdleUs = 3000;  // Steps that follow one another are closer than this.

int64_t NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

bool ComputeGate::ServingIsIdle(int64_t now_us) const {
  return serving_waits_ == 0 && now_us - last_serving_us_ >= kIdleUs;
}

bool ComputeGate::TrainingMayEnter(int64_t now_us) const {
  return owner_ == Owner::kNobody && (promised_ || ServingIsIdle(now_us));
}

ComputeGate::Turn ComputeGate::EnterServing(int64_t expected_us) {
  std::unique_lock<std::mutex> lock(mutex_);
  ++serving_waits_;
  if (trainer_waits_ && owner_ == Owner::kNobody && (hurry_ || credit_.MayPrecede(expected_us, trainer_wants_us_))) {
    promised_ = true;
    changed_.notify_all();
  }
  changed_.wait(lock, [&] { return owner_ == Owner::kNobody && !promised_; });
  --serving_waits_;
  owner_ = Owner::kServing;
  return Turn(this, /*serving=*/true, NowUs());
}

void ComputeGate::AwaitTraining(int64_t expected_us, std::unique_lock<std::mutex>* lock) {
  if (!TrainingMayEnter(NowUs())) {
    ++shares_.yields;
    trainer_waits_ = true;
    trainer_wants_us_ = expected_us;
    while (!TrainingMayEnter(NowUs())) changed_.wait_for(*lock, std::chrono::microseconds(kIdleUs));
    trainer_waits_ = false;
  }
  promised_ = false;
  owner_ = Owner::kTraining;
}

ComputeGate::Turn ComputeGate::EnterTraining(int64_t expected_us) {
  std::unique_lock<std::mutex> lock(mutex_);
  AwaitTraining(expected_us, &lock);
  return Turn(this, /*serving=*/false, NowUs());
}

void ComputeGate::YieldIfDue(int64_t expected_us, Turn* training) {
  std::unique_lock<std::mutex> lock(mutex_);
  const int64_t now_us = NowUs();
  if (serving_waits_ == 0 || credit_.MayGoOn(now_us - training->began_us_, expected_us)) return;
  LeaveLocked(/*serving=*/false, now_us, training->began_us_);
  changed_.notify_all();
  AwaitTraining(expected_us, &lock);
  training->began_us_ = NowUs();
}

void ComputeGate::LeaveLocked(bool serving, int64_t now_us, int64_t began_us) {
  const int64_t took_us = now_us - began_us;
  owner_ = Owner::kNobody;
  if (serving) {
    shares_.serving_us += took_us;
    last_serving_us_ = now_us;
    credit_.Served(took_us);
    return;
  }
  shares_.training_us += took_us;
  // A slice that serving did not wait for costs nobody anything.
  if (!ServingIsIdle(now_us)) credit_.Trained(took_us);
}

void ComputeGate::Leave(bool serving, int64_t began_us) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    LeaveLocked(serving, NowUs(), began_us);
  }
  changed_.notify_all();
}

bool ComputeGate::TrainingWaits() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return trainer_waits_;
}

void ComputeGate::Hurry(bool on) {
  const std::lock_guard<std::mutex> lock(mutex_);
  hurry_ = on;
}

ComputeGate::Shares ComputeGate::shares() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return shares_;
}

}  // namespace lorad
