#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace lorad {

// One light thread that calls replies, so that nobody's callback runs on the engine thread. At most kMaxWaiting wait to
// be called; whoever posts one more waits, unless it is a reply that posts.
class Completions final {
 public:
  static constexpr size_t kMaxWaiting = 4096;  // above what the engine lets be under way

  Completions();
  ~Completions();  // calls what is left, then joins
  void Post(std::function<void()> call);

 private:
  void Run();
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable room_;
  std::deque<std::function<void()>> calls_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lorad
