#include "scheduler/completions.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <thread>

namespace lorad {
namespace {

TEST(CompletionsTest, WhoPostsMoreThanTheBoundWaitsAndEveryReplyIsCalled) {
  constexpr size_t kPosted = 2 * Completions::kMaxWaiting + 3;
  std::promise<void> begun, go_on;
  std::atomic<size_t> posted = 0, called = 0;
  {
    Completions completions;
    completions.Post([&] {
      begun.set_value();
      go_on.get_future().wait();
      completions.Post([&] { ++called; });  // A reply never waits for itself.
    });
    begun.get_future().wait();
    std::thread engine([&] {
      for (size_t i = 0; i < kPosted; ++i) {
        completions.Post([&] { ++called; });
        ++posted;
      }
    });
    while (posted < Completions::kMaxWaiting) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // Time to go wrong in.
    EXPECT_EQ(posted, Completions::kMaxWaiting);
    go_on.set_value();
    engine.join();
  }
  EXPECT_EQ(called, kPosted + 1);
}

}  // namespace
}  // namespace lorad
