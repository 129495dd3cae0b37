#include "server/tuning/task_thread.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/backend.h"

namespace lorad {

TaskThread::TaskThread(size_t limit) : limit_(limit), thread_([this] { Run(); }) {}

TaskThread::~TaskThread() { End(); }

absl::Status TaskThread::Add(std::function<void()> task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return DrainingError();
    if (tasks_.size() >= limit_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("submissions that wait: ", tasks_.size(), "; limit: ", limit_, "; retry later"));
    }
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
  return absl::OkStatus();
}

void TaskThread::End() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void TaskThread::Run() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return ended_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace lorad
