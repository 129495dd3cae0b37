#include "server/stream_pump.h"

#include <utility>

namespace lorad {

StreamPump::StreamPump() : thread_([this] { Run(); }) {}

StreamPump::~StreamPump() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void StreamPump::Gather(std::function<void()> work) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (work_.size() >= kMaxWaiting && std::this_thread::get_id() != thread_.get_id()) {
    wake_.notify_one();
    room_.wait(lock, [this] { return work_.size() < kMaxWaiting; });
  }
  work_.push_back(std::move(work));
}

void StreamPump::Post(std::function<void()> work) {
  Gather(std::move(work));
  wake_.notify_one();
}

void StreamPump::Wake() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (work_.empty()) return;
  }
  wake_.notify_one();
}

void StreamPump::PostAfter(std::chrono::milliseconds delay, std::function<void()> work) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    later_.emplace(std::chrono::steady_clock::now() + delay, std::move(work));
  }
  wake_.notify_one();
}

void StreamPump::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    const TimePoint now = std::chrono::steady_clock::now();
    while (!later_.empty() && later_.begin()->first <= now) {
      work_.push_back(std::move(later_.begin()->second));
      later_.erase(later_.begin());
    }
    if (!work_.empty()) {
      std::deque<std::function<void()>> batch = std::exchange(work_, {});
      lock.unlock();
      room_.notify_all();
      for (auto& work : batch) work();
      batch.clear();  // What it holds may take locks when it goes.
      lock.lock();
      continue;
    }
    if (stopping_) return;
    if (later_.empty()) {
      wake_.wait(lock);
    } else {
      wake_.wait_until(lock, later_.begin()->first);
    }
  }
}

}  // namespace lorad
