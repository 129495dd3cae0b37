#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "tests/cuda_emulator/stream_order.h"

// Captured launches: what a thread queues while it captures is kept and not run, the memory that it takes is its own
// until it goes, and then its pool's; a replay runs it all on what lies in the device's memory by then. So a pointer to
// memory that is gone, a size of an earlier step or a number that was read at the capture shows as a fault or as wrong
// results.
namespace lorad::emulator {

class CapturedLaunches final {
 public:
  // pool: those that share memory; a replay of one leaves the others' results not a number.
  explicit CapturedLaunches(uint64_t pool);
  ~CapturedLaunches();
  CapturedLaunches(const CapturedLaunches&) = delete;
  CapturedLaunches& operator=(const CapturedLaunches&) = delete;

  void Begin();
  // Nothing of it has run: what it computes is not a number. Throws if something was refused meanwhile.
  void End();
  void Invalidate() { invalid_ = true; }
  void Replay();

  void Add(std::function<void()> launch) { launches_.push_back(std::move(launch)); }
  // What only keeps books of the order, and is no launch.
  void AddNote(std::function<void()> note) {
    launches_.push_back(std::move(note));
    ++notes_;
  }
  CapturedOrder& order() { return order_; }
  // Memory of its own, of its pool's where one fits; nullptr: the device is full.
  void* Allocate(size_t bytes);

 private:
  struct Memory {
    void* data;
    size_t bytes;
  };
  void Forget() const;

  const uint64_t pool_;
  bool invalid_ = false;
  std::vector<std::function<void()>> launches_;
  size_t notes_ = 0;  // of them
  CapturedOrder order_;
  std::vector<Memory> memory_;
};

// What this thread captures into; nullptr: nothing.
CapturedLaunches* Capturing();
// Whether this thread captures, in which `what` is not allowed: the capture is of no use any more. Throws
// std::runtime_error.
void RefuseInCapture(const char* what);

// What an allocator of LibTorch's (2.11) knows of captures' pools. Each call throws where LibTorch's does.
class PoolBook final {
 public:
  void Begin(uint64_t pool);    // for a graph that is its user from here on
  void End(uint64_t pool);      // of what is allocated for it
  void Release(uint64_t pool);  // by one user; a pool without any cannot be taken up again
  bool underway() const { return !underway_.empty(); }
  std::set<uint64_t> TakeUnused();

 private:
  std::map<uint64_t, int> users_;
  std::set<uint64_t> underway_;
};
PoolBook& DevicePools();
PoolBook& HostPools();
// LibTorch's cache goes back to the device, and what graphs had of pools without users. False: something is captured,
// or LibTorch believes so; then nothing goes.
bool EmptyCaches();

// So many replays were there, and so many launches in them.
struct Replays {
  int64_t graphs = 0;
  int64_t launches = 0;
};
Replays ReplaysSoFar();

}  // namespace lorad::emulator
