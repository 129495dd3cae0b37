#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

namespace lorad {

// Turns SIGTERM and SIGINT into something to wait for; the second one ends the process at once. Made before any other
// thread, so that all of them have the signals blocked.
class Signals final {
 public:
  Signals();
  ~Signals();

  // Before this, the first signal ends the process: there is nothing to drain.
  void StartDrainingOnSignal();
  void Wait();       // until a signal came
  void Interrupt();  // as if one had come

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  bool drains_ = false;
  bool came_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lorad
