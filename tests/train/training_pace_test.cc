#include "scheduler/tuning/training_pace.h"

#include <gtest/gtest.h>

#include <mutex>
#include <thread>
#include <vector>

#include "model/ops/pieces.h"

namespace lorad {
namespace {

TEST(TrainingPaceTest, ATurnEndsWhenTheDeviceIsDone) {
  ComputeGate gate(/*share=*/0.2);
  bool done = false;
  TrainingPace pace(&gate, [&] {
    EXPECT_EQ(gate.shares().training_us, 0);  // still in the turn
    done = true;
  });
  pace.Run([] {});
  EXPECT_TRUE(done);
}

TEST(TrainingPaceTest, SmallPiecesOfADeviceCountAsOne) {
  ComputeGate gate(/*share=*/0.2);
  int waits = 0;
  TrainingPace pace(&gate, [&] { ++waits; });
  pace.Run([&] {
    for (int i = 0; i < 100; ++i) BeginPiece(kPieceProducts);
    EXPECT_EQ(waits, 1);  // before the first
    const int64_t large = PieceRows(/*products_a_row=*/1);
    EXPECT_GT(large, 100 * kPieceProducts);
    BeginPiece(large);
    BeginPiece(large);
    EXPECT_EQ(waits, 3);
  });
  EXPECT_EQ(waits, 4);
}

TEST(TrainingPaceTest, OnTheCpuEachPieceIsOne) {
  ComputeGate gate(/*share=*/0.2);
  TrainingPace pace(&gate);
  pace.Run([&] { EXPECT_EQ(PieceRows(/*products_a_row=*/1), kPieceProducts); });
  EXPECT_EQ(PieceRows(/*products_a_row=*/1), kPieceProducts);
}

TEST(FairMutexTest, WhoeverWaitsHasItBeforeWhoeverComesBack) {
  FairMutex mutex;
  std::vector<int> order;
  mutex.lock();
  std::thread other([&] {
    const std::lock_guard<FairMutex> lock(mutex);
    order.push_back(1);
  });
  while (mutex.threads() < 2) std::this_thread::yield();
  mutex.unlock();
  mutex.lock();
  order.push_back(2);
  mutex.unlock();
  other.join();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

}  // namespace
}  // namespace lorad
