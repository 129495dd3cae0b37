#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

// Captured launches: what a thread queues while it captures is kept and not run, the memory that it takes is its own
// until it goes, and a replay runs it all on what lies in the device's memory by then. So a pointer to memory that is
// gone, a size of an earlier step or a number that was read at the capture shows as a fault or as wrong results.
namespace lorad::emulator {

class CapturedLaunches final {
 public:
  // pool: those that share memory; a replay of one leaves the others' results not a number.
  explicit CapturedLaunches(uint64_t pool);
  ~CapturedLaunches();
  CapturedLaunches(const CapturedLaunches&) = delete;
  CapturedLaunches& operator=(const CapturedLaunches&) = delete;

  void Begin();
  void End();  // nothing of it has run: what it computes is not a number
  void Replay();

  void Add(std::function<void()> launch) { launches_.push_back(std::move(launch)); }
  // Memory of its own; nullptr: the device is full.
  void* Allocate(size_t bytes);

 private:
  struct Memory {
    void* data;
    size_t bytes;
  };
  void Forget() const;

  const uint64_t pool_;
  std::vector<std::function<void()>> launches_;
  std::vector<Memory> memory_;
};

// What this thread captures into; nullptr: nothing.
CapturedLaunches* Capturing();
// Whether this thread captures, in which `what` is not allowed. Throws std::runtime_error.
void RefuseInCapture(const char* what);

// So many replays were there, and so many launches in them.
struct Replays {
  int64_t graphs = 0;
  int64_t launches = 0;
};
Replays ReplaysSoFar();

}  // namespace lorad::emulator
