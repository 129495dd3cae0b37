#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace lorad {

// One light thread between the engine and the streams: it detokenises and starts writes, so that neither runs on the
// engine thread. Work for one stream is done in the order it came. At most kMaxWaiting pieces wait: when writing is
// slower than computing, whoever posts one more waits, and so the steps become slower, not the memory larger.
//
// Threads  Post and PostAfter from any; what they are given runs on the pump's thread and must not block. There Post
//          never waits.
class StreamPump final {
 public:
  static constexpr size_t kMaxWaiting = size_t{1} << 16;

  StreamPump();
  ~StreamPump();  // does what was posted, drops what waits for its time, then joins

  void Post(std::function<void()> work);
  void PostAfter(std::chrono::milliseconds delay, std::function<void()> work);

 private:
  using TimePoint = std::chrono::steady_clock::time_point;
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable room_;
  std::deque<std::function<void()>> work_;
  std::multimap<TimePoint, std::function<void()>> later_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lorad
