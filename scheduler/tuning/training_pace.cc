#include "scheduler/tuning/training_pace.h"

#include <chrono>
#include <mutex>

#include "model/ops/pieces.h"

namespace lorad {
namespace {

constexpr int64_t kMillion = 1'000'000;
constexpr int64_t kDevicePieceProducts = kPieceProducts
                                         << 9;  // some hundred microseconds of a large one; not measured yet

int64_t NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

void TrainingPace::Run(const std::function<void()>& slice) {
  const std::lock_guard<FairMutex> lock(mutex_);
  ComputeGate::Turn turn = gate_->EnterTraining(expected_us_);
  last_products_ = -1;
  const PieceListener listener([&](int64_t products) { BeforePiece(products, &turn); },
                               await_device_ ? kDevicePieceProducts : kPieceProducts);
  slice();
  if (await_device_) await_device_();
}

void TrainingPace::BeforePiece(int64_t products, ComputeGate::Turn* turn) {
  if (await_device_) {
    // A wait for each would cost more than most of them: they count as one until there is enough.
    if (last_products_ >= 0 && last_products_ + products <= kDevicePieceProducts) {
      last_products_ += products;
      return;
    }
    await_device_();
  }
  if (last_products_ >= 0) time_.Observe(last_products_ / kMillion, NowUs() - last_began_us_);
  expected_us_ = time_.PredictUs(products / kMillion).value_or(0);
  gate_->YieldIfDue(expected_us_, turn);
  last_products_ = products;
  last_began_us_ = NowUs();
}

}  // namespace lorad
