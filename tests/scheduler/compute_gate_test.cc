#include "scheduler/compute_gate.h"

#include <atomic>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

namespace lorad {
namespace {

using std::chrono::milliseconds;

TEST(ComputeGateTest, TrainingHasAllOfTheTimeWhenNothingIsServed) {
  ComputeGate gate(0.0);
  ComputeGate::Turn training = gate.EnterTraining(1'000'000);
  gate.YieldIfDue(1'000'000, &training);  // nobody waits
  EXPECT_EQ(gate.shares().yields, 0);
}

TEST(ComputeGateTest, APieceThatIsMoreThanTrainingHasLeftLetsServingGoFirst) {
  ComputeGate gate(0.2);
  std::atomic<bool> served = false;
  std::thread serving;
  {
    ComputeGate::Turn training = gate.EnterTraining();
    serving = std::thread([&] {
      const ComputeGate::Turn turn = gate.EnterServing();
      served = true;
    });
    // Nothing was served before, so training has nothing left once somebody waits. Ends when that is seen.
    while (!served) gate.YieldIfDue(/*expected_us=*/1'000, &training);
    EXPECT_GE(gate.shares().yields, 1);
  }
  serving.join();
}

TEST(ComputeGateTest, ServingCanSeeThatTrainingWaits) {
  ComputeGate gate(0.2);
  std::thread training;
  {
    const ComputeGate::Turn serving = gate.EnterServing();
    EXPECT_FALSE(gate.TrainingWaits());
    training = std::thread([&] { gate.EnterTraining(); });
    while (!gate.TrainingWaits()) std::this_thread::yield();
  }
  training.join();
  EXPECT_FALSE(gate.TrainingWaits());
}

// Serving's steps follow one another for as long as it lives.
class BusyServing final {
 public:
  explicit BusyServing(ComputeGate* gate) {
    thread_ = std::thread([this, gate] {
      while (!end_) {
        const ComputeGate::Turn turn = gate->EnterServing();
        std::this_thread::sleep_for(milliseconds(5));
      }
    });
    while (gate->shares().serving_us == 0) std::this_thread::yield();
  }
  ~BusyServing() {
    end_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> end_ = false;
  std::thread thread_;
};

TEST(ComputeGateTest, APieceLargerThanAllThatCanGatherRunsAllTheSame) {
  ComputeGate gate(1.0);
  const BusyServing serving(&gate);
  const ComputeGate::Turn turn = gate.EnterTraining(/*expected_us=*/int64_t{1} << 40);
}

TEST(ComputeGateTest, WithoutAnyShareTrainingLetsGoWhenSomebodyWaitsForIt) {
  ComputeGate gate(0.0);
  const BusyServing serving(&gate);
  gate.Hurry(true);
  for (int piece = 0; piece < 3; ++piece) const ComputeGate::Turn turn = gate.EnterTraining(/*expected_us=*/1'000'000);
}

}  // namespace
}  // namespace lorad
