#include "scheduler/completions.h"

#include <utility>

namespace lorad {

Completions::Completions() : thread_([this] { Run(); }) {}

Completions::~Completions() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Completions::Post(std::function<void()> call) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.push_back(std::move(call));
  }
  wake_.notify_one();
}

void Completions::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !calls_.empty(); });
    if (calls_.empty()) return;
    std::deque<std::function<void()>> calls;
    calls.swap(calls_);
    lock.unlock();
    for (std::function<void()>& call : calls) {
      call();
      call = nullptr;
    }
    lock.lock();
  }
}

}  // namespace lorad
