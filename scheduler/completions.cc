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
    std::unique_lock<std::mutex> lock(mutex_);
    if (std::this_thread::get_id() != thread_.get_id()) {
      room_.wait(lock, [this] { return calls_.size() < kMaxWaiting; });
    }
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
    room_.notify_all();
    for (std::function<void()>& call : calls) {
      call();
      call = nullptr;
    }
    lock.lock();
  }
}

}  // namespace lorad
