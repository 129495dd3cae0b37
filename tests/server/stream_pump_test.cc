#include "server/stream_pump.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <thread>
#include <vector>

namespace lorad {
namespace {

TEST(StreamPumpTest, WhoPostsMoreThanTheBoundWaitsAndNothingIsLostOrReordered) {
  constexpr size_t kPosted = 2 * StreamPump::kMaxWaiting + 7;
  std::promise<void> begun, go_on;
  std::atomic<size_t> posted = 0;
  std::vector<size_t> done;
  {
    StreamPump pump;
    pump.Post([&] {
      begun.set_value();
      go_on.get_future().wait();
    });
    begun.get_future().wait();
    std::thread engine([&] {
      for (size_t i = 0; i < kPosted; ++i) {
        pump.Post([&done, i] { done.push_back(i); });
        ++posted;
      }
    });
    while (posted < StreamPump::kMaxWaiting) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // Time to go wrong in.
    EXPECT_EQ(posted, StreamPump::kMaxWaiting);
    go_on.set_value();
    engine.join();
  }
  ASSERT_EQ(done.size(), kPosted);
  for (size_t i = 0; i < kPosted; ++i) ASSERT_EQ(done[i], i);
}

TEST(StreamPumpTest, WorkThatPostsNeverWaits) {
  std::promise<void> all;
  std::atomic<size_t> done = 0;
  StreamPump pump;
  pump.Post([&] {
    for (size_t i = 0; i < StreamPump::kMaxWaiting + 5; ++i) {
      pump.Post([&] {
        if (++done == StreamPump::kMaxWaiting + 5) all.set_value();
      });
    }
  });
  all.get_future().wait();
}

// Waits until `pump` sleeps: what was posted before is done.
void AwaitSleep(StreamPump* pump) {
  std::promise<void> done;
  pump->Post([&] { done.set_value(); });
  done.get_future().wait();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

TEST(StreamPumpTest, WhatIsGatheredIsDoneInOrderWhenThePumpIsWoken) {
  std::vector<int> done;
  StreamPump pump;
  AwaitSleep(&pump);
  std::promise<void> last;
  pump.Gather([&] { done.push_back(1); });
  pump.Gather([&] { done.push_back(2); });
  pump.Gather([&] { last.set_value(); });
  pump.Wake();
  last.get_future().wait();
  EXPECT_EQ(done, (std::vector<int>{1, 2}));
}

TEST(StreamPumpTest, APostTakesWhatWasGatheredBeforeItAlong) {
  std::vector<int> done;
  StreamPump pump;
  AwaitSleep(&pump);
  pump.Gather([&] { done.push_back(1); });
  std::promise<void> last;
  pump.Post([&] { last.set_value(); });
  last.get_future().wait();
  EXPECT_EQ(done, std::vector<int>{1});
}

TEST(StreamPumpTest, WhoGathersMoreThanTheBoundNeedNotWakeThePump) {
  size_t done = 0;
  {
    StreamPump pump;
    AwaitSleep(&pump);
    for (size_t i = 0; i < StreamPump::kMaxWaiting + 3; ++i) pump.Gather([&] { ++done; });
  }
  EXPECT_EQ(done, StreamPump::kMaxWaiting + 3);
}

}  // namespace
}  // namespace lorad
