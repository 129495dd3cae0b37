#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace lorad {

// Threads have it in the order in which they came: whoever unlocks a std::mutex and locks it again at once has it
// before those who wait, time after time.
class FairMutex final {
 public:
  void lock() {
    std::unique_lock<std::mutex> lock(mutex_);
    const int64_t ticket = next_++;
    changed_.wait(lock, [&] { return serving_ == ticket; });
  }
  void unlock() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++serving_;
    changed_.notify_all();
  }
  // That have it or wait for it.
  int64_t threads() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return next_ - serving_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t next_ = 0;
  int64_t serving_ = 0;
};

}  // namespace lorad
