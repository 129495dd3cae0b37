#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace lorad {

// One light thread that calls replies, so that nobody's callback runs on the engine thread. Bounded by the number of
// accepted commands.
class Completions final {
 public:
  Completions();
  ~Completions();  // calls what is left, then joins
  void Post(std::function<void()> call);

 private:
  void Run();
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> calls_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lorad
