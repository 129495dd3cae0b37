#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace lorad {

// Who wants to hear of changes of a job.
//
// Threads  any.
class JobWatchers final {
 public:
  // `notify` is called from any thread, not after Remove returned; must not block.
  int64_t Add(const std::string& job_id, std::function<void()> notify);
  void Remove(int64_t watch);
  void Notify(const std::string& job_id) const;
  void NotifyAll() const;

 private:
  struct Watcher {
    std::string job_id;
    std::function<void()> notify;
  };
  mutable std::mutex mutex_;
  std::map<int64_t, Watcher> watchers_;
  int64_t next_ = 1;
};

}  // namespace lorad
