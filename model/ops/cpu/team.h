#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace lorad::cpu {

// Threads that compute one region at a time together with its caller.
//
// A region's items are cut into pieces, and the pieces dealt to the threads in order: the same items go to the same
// thread in every region of a shape, so that its cache may still hold what they read. A thread that is done takes
// pieces of the others. Nobody waits for a thread that has not begun a piece: where a core is shared with another
// program, the rest do its work.
//
// Waiting  a worker without work spins for kSpinUs while somebody keeps the team awake (KeepAwake), else sleeps at
//          once; a caller that waits for the last pieces spins as long, then sleeps.
// Threads  Run from any thread. One region runs at a time; a second caller, and a region inside a region, computes
//          alone.
// Errors   what `fn` throws reaches the caller (the first of several), after every piece has ended.
class ComputeTeam final {
 public:
  static constexpr int kSpinUs = 50;
  using Fn = void (*)(const void* context, int64_t begin, int64_t end);

  explicit ComputeTeam(int threads);  // the caller of Run is one of them
  ~ComputeTeam();
  ComputeTeam(const ComputeTeam&) = delete;
  ComputeTeam& operator=(const ComputeTeam&) = delete;

  int threads() const { return static_cast<int>(queues_.size()); }

  // fn(context, begin, end) over pieces of at most `piece` items that cover [0, count) once.
  void Run(int64_t count, int64_t piece, Fn fn, const void* context);

  // While one lives, workers spin between regions: for as long as a forward runs, not between forwards.
  class KeepAwake final {
   public:
    explicit KeepAwake(ComputeTeam* team) : team_(team) { team_->awake_.fetch_add(1, std::memory_order_relaxed); }
    ~KeepAwake() { team_->awake_.fetch_sub(1, std::memory_order_relaxed); }
    KeepAwake(const KeepAwake&) = delete;
    KeepAwake& operator=(const KeepAwake&) = delete;

   private:
    ComputeTeam* const team_;
  };

 private:
  // The pieces of one thread that nobody has taken: region number << 32 | next piece.
  struct alignas(64) Queue {
    std::atomic<uint64_t> next{0};
  };
  // What a region is. Written by the caller once every queue says that the region before has ended, and read before a
  // piece is taken: who reads the fields of a later region than it knows finds no piece to take.
  struct Job {
    std::atomic<Fn> fn{nullptr};
    std::atomic<const void*> context{nullptr};
    std::atomic<int64_t> count{0};
    std::atomic<int64_t> piece{1};
  };

  void Work(size_t self);
  bool AwaitRegionAfter(uint32_t seen, uint32_t* region);
  void Publish(int64_t count, int64_t piece, Fn fn, const void* context);
  void TakePieces(size_t self, uint32_t region);
  void AwaitLastPiece();

  std::vector<Queue> queues_;  // by thread; the caller's is the first
  Job job_;
  alignas(64) std::atomic<uint32_t> region_{0};  // counts regions
  alignas(64) std::atomic<int64_t> left_{0};     // items not computed yet
  alignas(64) std::atomic<bool> busy_{false};    // a region runs
  std::atomic<int> awake_{0};                    // KeepAwake objects
  std::atomic<int> sleeping_{0};                 // workers
  std::atomic<bool> stop_{false};
  std::atomic<bool> caller_sleeps_{false};
  std::mutex mutex_;
  std::condition_variable work_comes_;
  std::condition_variable work_ended_;
  std::exception_ptr error_;  // of the running region; guarded by mutex_
  std::vector<std::thread> workers_;
};

}  // namespace lorad::cpu
