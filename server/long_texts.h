#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/status/status.h"

namespace lorad {

// Where long texts are tokenised, one at a time: a megabyte takes a second and 250 MiB, and gRPC has as few as two
// threads for everybody's calls. Short ones are done where they come in, but for those of accepted requests that
// awaited their adapter's tokenizer.
//
// Threads  Post and PostAccepted from any; the work runs on the one thread of this.
// Errors   Post: ResourceExhausted: kMaxWaiting texts of Post wait already.
class LongTexts final {
 public:
  static constexpr size_t kLongBytes = size_t{64} << 10;
  static constexpr size_t kMaxWaiting = 16;

  LongTexts();
  ~LongTexts();  // does what was posted, then joins

  absl::Status Post(std::function<void()> work);
  void PostAccepted(std::function<void()> work);  // the engine's queue bounds these

 private:
  struct Text {
    std::function<void()> work;
    bool accepted;  // PostAccepted's
  };
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Text> waiting_;
  size_t waiting_of_post_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lorad
