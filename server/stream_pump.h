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
// slower than computing, whoever gives one more waits, and so the steps become slower, not the memory larger.
//
// Threads  all from any; what they are given runs on the pump's thread and must not block. There nothing waits for
//          room.
class StreamPump final {
 public:
  static constexpr size_t kMaxWaiting = size_t{1} << 16;

  StreamPump();
  ~StreamPump();  // does what was posted, drops what waits for its time, then joins

  void Post(std::function<void()> work);
  // A Post that may wait for the next Wake or Post: to wake the thread for each piece would cost more than the piece.
  void Gather(std::function<void()> work);
  void Wake();
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
