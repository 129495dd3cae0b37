#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/status/status.h"

namespace lorad {

// Runs tasks one after the other on a thread of its own.
class TaskThread final {
 public:
  explicit TaskThread(size_t limit);  // of tasks that wait
  ~TaskThread();                      // runs what waits, then ends

  // Errors: ResourceExhausted when `limit` tasks wait; Unavailable after End.
  absl::Status Add(std::function<void()> task);
  void End();

 private:
  void Run();

  const size_t limit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace lorad
