#include "clients/loadgen/runner.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace lorad {
namespace {

// Runs each job at once: on a thread that has nothing to do, else on a new one.
class Threads final {
 public:
  ~Threads() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void Run(std::function<void()> job) {
    const std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(std::move(job));
    if (idle_ < static_cast<int64_t>(jobs_.size())) threads_.emplace_back([this] { Work(); });
    changed_.notify_one();
  }

 private:
  void Work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      ++idle_;
      changed_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
      --idle_;
      if (jobs_.empty()) return;
      std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
  int64_t idle_ = 0;
  bool ending_ = false;
};

Call MakeCall(const TraceRequest& request, const RunOptions& options) {
  Call call;
  call.request = request;
  if (request.adapter >= 0) call.adapter = options.adapter_prefix + std::to_string(request.adapter);
  call.prompt = MakePrompt(request, options.vocab_size);
  return call;
}

}  // namespace

RunResult RunTrace(const std::vector<TraceRequest>& trace, const RunOptions& options, Transport* transport) {
  std::vector<Call> calls;
  for (const TraceRequest& request : trace) calls.push_back(MakeCall(request, options));
  RunResult result;
  result.outcomes.resize(calls.size());
  const Stopwatch watch;
  {
    Threads threads;
    std::atomic<size_t> next{0};
    if (options.open_loop) {
      for (size_t i = 0; i < calls.size(); ++i) {
        std::this_thread::sleep_until(watch.At(calls[i].request.arrival_s));
        threads.Run([&, i] { result.outcomes[i] = transport->Run(calls[i], watch); });
      }
    } else {
      for (int64_t stream = 0; stream < options.concurrency; ++stream) {
        threads.Run([&] {
          for (size_t i = next++; i < calls.size(); i = next++) result.outcomes[i] = transport->Run(calls[i], watch);
        });
      }
    }
  }
  for (const Outcome& outcome : result.outcomes) {
    result.seconds = std::max(result.seconds, outcome.end_s);
    result.full_seconds = std::max(result.full_seconds, outcome.sent_s);
  }
  return result;
}

}  // namespace lorad
