#include "model/ops/cpu/team.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace lorad::cpu {
namespace {

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // waits about as long as x86's pause; yield does nothing on most
#endif
}

// Spins until `done` or for kSpinUs at most, as long as `go_on`; whether it is done.
template <typename Done, typename GoOn>
bool SpinUntil(const Done& done, const GoOn& go_on) {
  constexpr int kPausesPerLook = 16;
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(ComputeTeam::kSpinUs);
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (done()) return true;
      Pause();
    }
  } while (go_on() && std::chrono::steady_clock::now() < end);
  return done();
}

constexpr uint64_t Word(uint32_t region, int64_t piece) {
  return static_cast<uint64_t>(region) << 32 | static_cast<uint32_t>(piece);
}
constexpr int64_t kNoPiece = 0xFFFFFFFF;

}  // namespace

ComputeTeam::ComputeTeam(int threads) : queues_(static_cast<size_t>(std::max(threads, 1))) {
  for (size_t i = 1; i < queues_.size(); ++i) workers_.emplace_back([this, i] { Work(i); });
}

ComputeTeam::~ComputeTeam() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
    region_.fetch_add(1);
  }
  work_comes_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ComputeTeam::Run(int64_t count, int64_t piece, Fn fn, const void* context) {
  if (count <= 0) return;
  piece = std::max<int64_t>(piece, 1);
  if (count <= piece || workers_.empty() || busy_.exchange(true, std::memory_order_acquire)) {
    fn(context, 0, count);
    return;
  }
  Publish(count, std::max(piece, count / (kNoPiece - 1) + 1), fn, context);
  TakePieces(0, region_.load(std::memory_order_relaxed));
  AwaitLastPiece();
  std::exception_ptr error;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    error = std::exchange(error_, nullptr);
  }
  busy_.store(false, std::memory_order_release);
  if (error != nullptr) std::rethrow_exception(error);
}

void ComputeTeam::Publish(int64_t count, int64_t piece, Fn fn, const void* context) {
  const uint32_t region = region_.load(std::memory_order_relaxed) + 1;
  for (Queue& queue : queues_) queue.next.store(Word(region, kNoPiece), std::memory_order_relaxed);
  job_.fn.store(fn, std::memory_order_release);
  job_.context.store(context, std::memory_order_release);
  job_.count.store(count, std::memory_order_release);
  job_.piece.store(piece, std::memory_order_release);
  left_.store(count, std::memory_order_relaxed);
  const int64_t pieces = (count + piece - 1) / piece;
  const int64_t threads = static_cast<int64_t>(queues_.size());
  for (int64_t i = 0; i < threads; ++i) {
    queues_[static_cast<size_t>(i)].next.store(Word(region, pieces * i / threads), std::memory_order_release);
  }
  region_.store(region);  // in one order with sleeping_: the worker sees the region, or we see it asleep
  if (sleeping_.load() == 0) return;
  { const std::lock_guard<std::mutex> lock(mutex_); }
  if (pieces <= 2) {
    work_comes_.notify_one();
  } else {
    work_comes_.notify_all();
  }
}

// Its own pieces first, in order, then those of the next threads.
void ComputeTeam::TakePieces(size_t self, uint32_t region) {
  const Fn fn = job_.fn.load(std::memory_order_acquire);
  const void* context = job_.context.load(std::memory_order_acquire);
  const int64_t count = job_.count.load(std::memory_order_acquire);
  const int64_t piece = job_.piece.load(std::memory_order_acquire);
  const int64_t pieces = (count + piece - 1) / piece;
  const int64_t threads = static_cast<int64_t>(queues_.size());
  int64_t done = 0;
  for (int64_t i = 0; i < threads; ++i) {
    const int64_t owner = (static_cast<int64_t>(self) + i) % threads;
    const int64_t end = pieces * (owner + 1) / threads;
    std::atomic<uint64_t>& next = queues_[static_cast<size_t>(owner)].next;
    uint64_t word = next.load(std::memory_order_acquire);
    while (word >> 32 == region && static_cast<int64_t>(word & kNoPiece) < end) {
      if (!next.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel)) continue;
      const int64_t begin = static_cast<int64_t>(word & kNoPiece) * piece;
      const int64_t stop = std::min(begin + piece, count);
      try {
        fn(context, begin, stop);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (error_ == nullptr) error_ = std::current_exception();
      }
      done += stop - begin;
      word = next.load(std::memory_order_acquire);
    }
  }
  if (done == 0 || left_.fetch_sub(done) != done) return;
  if (!caller_sleeps_.load()) return;
  { const std::lock_guard<std::mutex> lock(mutex_); }
  work_ended_.notify_one();
}

void ComputeTeam::AwaitLastPiece() {
  const auto ended = [this] { return left_.load() == 0; };
  if (SpinUntil(ended, [] { return true; })) return;
  std::unique_lock<std::mutex> lock(mutex_);
  caller_sleeps_.store(true);
  work_ended_.wait(lock, ended);
  caller_sleeps_.store(false);
}

void ComputeTeam::Work(size_t self) {
  uint32_t region = 0;
  while (AwaitRegionAfter(region, &region)) TakePieces(self, region);
}

// False when the team ends.
bool ComputeTeam::AwaitRegionAfter(uint32_t seen, uint32_t* region) {
  const auto comes = [&] { return (*region = region_.load()) != seen; };
  const auto awake = [this] { return awake_.load(std::memory_order_relaxed) > 0; };
  if (awake() && SpinUntil(comes, awake)) return !stop_.load();
  std::unique_lock<std::mutex> lock(mutex_);
  sleeping_.fetch_add(1);
  work_comes_.wait(lock, [&] { return comes(); });
  sleeping_.fetch_sub(1);
  return !stop_.load();
}

}  // namespace lorad::cpu
