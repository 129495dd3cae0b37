#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

// Runs the threads of a CUDA block as fibres of one thread, block after block. Threads change only at barriers and at
// what a warp does together; in between each runs alone, so a fault of order shows as one of the errors below or not
// at all. It is for the logic of kernels: indexing, barriers, shared memory. Reads and writes outside of buffers are
// found by AddressSanitizer, with which its tests are built. Not for asynchronous copies or timing.
namespace lorad::emulator {

// What a kernel did wrong, with the thread and the block that did it.
class KernelFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Position {
  unsigned x = 0, y = 0, z = 0;
};
// Of the thread that runs.
extern Position thread_index, block_index, block_dim, grid_dim;

// The thread that runs.
struct RunningThread {
  unsigned thread = 0;  // in its block
  unsigned threads = 0;
  Position block = {};
  uint64_t serial = 0;  // of the block, never the same twice
  uint64_t block_epoch = 0;
  uint64_t warp_epoch = 0;
};
const RunningThread& Running();
const RunningThread* RunningOrNull();  // null: no kernel runs
bool IsOnAStack(uintptr_t at);         // of a kernel's threads
uint64_t NextSerial();                 // of the block that runs next
void FailRunning(std::string what);    // by the thread that runs
inline int LaneOfRunning() { return static_cast<int>(Running().thread % 32); }

// Runs `body` once for each thread of each block. Blocks of one dimension, 1024 threads at most.
// Throws KernelFault: threads that end or wait elsewhere while others wait at a barrier; lanes of one warp in different
// operations, or outside of their own mask; and what shared memory finds.
void RunGrid(Position grid, unsigned threads, const std::function<void()>& body);

void SyncBlock();
void SyncWarp(unsigned mask);
uint64_t Exchange(unsigned mask, uint64_t bits, int from_lane);
unsigned Ballot(unsigned mask, bool vote);

void CheckIndex(int64_t i, int64_t size);

// Who touched an element of shared memory since when. Two threads race when at least one writes and no barrier of the
// block, or of the warp if it is theirs, lies between them.
class AccessHistory final {
 public:
  void Write(int64_t index);
  void Read(int64_t index);

 private:
  struct Access {
    int64_t thread = -1;   // -1: none
    bool several = false;  // lanes of that thread's warp
    uint64_t block_epoch = 0;
    uint64_t warp_epoch = 0;
  };
  static bool Races(const Access& before);
  static Access Now();
  void StartBlock();

  uint64_t serial_ = 0;
  Access write_;
  // The last readers of two warps: with a third it is the same, since a writer races with at least one of two.
  std::array<Access, 2> reads_;
};

}  // namespace lorad::emulator
