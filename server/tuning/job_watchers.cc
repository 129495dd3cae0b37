#include "server/tuning/job_watchers.h"

#include <utility>

namespace lorad {

int64_t JobWatchers::Add(const std::string& job_id, std::function<void()> notify) {
  const std::lock_guard<std::mutex> lock(mutex_);
  watchers_[next_] = {job_id, std::move(notify)};
  return next_++;
}

void JobWatchers::Remove(int64_t watch) {
  const std::lock_guard<std::mutex> lock(mutex_);
  watchers_.erase(watch);
}

void JobWatchers::Notify(const std::string& job_id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [watch, watcher] : watchers_) {
    if (watcher.job_id == job_id) watcher.notify();
  }
}

void JobWatchers::NotifyAll() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [watch, watcher] : watchers_) watcher.notify();
}

}  // namespace lorad
