#include "tests/cuda_emulator/block.h"

#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/global_memory.h"

namespace lorad::emulator {

Position thread_index, block_index, block_dim, grid_dim;

namespace {

constexpr size_t kStackBytes = size_t{1} << 17;
constexpr unsigned kLanes = 32;
constexpr unsigned kMostThreads = 1024;

enum class State { kRuns, kAtBlockBarrier, kInWarp, kEnded };
enum class WarpOp { kSync, kExchange, kBallot };
const char* NameOf(WarpOp op) {
  return op == WarpOp::kSync ? "__syncwarp" : op == WarpOp::kExchange ? "a shuffle" : "__ballot_sync";
}

// Where a fibre goes on. GCC's own setjmp makes no system call, as swapcontext does: a shuffle is 32 switches.
struct Place {
  void* words[5];
};
// Functions of their own: a compiler must not see through the two halves.
__attribute__((noinline)) void Jump(Place* to) { __builtin_longjmp(to->words, 1); }
__attribute__((noinline)) void Switch(Place* from, Place* to) {
  if (__builtin_setjmp(from->words) == 0) Jump(to);
}
__attribute__((noinline)) void Start(Place* from, const ucontext_t* to) {
  if (__builtin_setjmp(from->words) == 0) setcontext(to);
}

struct Fibre {
  ucontext_t start = {};
  bool started = false;
  Place place = {};
  State state = State::kRuns;
  RunningThread self;
  // While in a warp's operation:
  WarpOp op = WarpOp::kSync;
  unsigned mask = 0;
  uint64_t given = 0;
  int from_lane = 0;
  uint64_t taken = 0;
};

// Of the scheduler, not of a fibre: nothing may be thrown across the border of one.
[[noreturn]] void Fail(const RunningThread& at, const std::string& what) {
  throw KernelFault("thread " + std::to_string(at.thread) + " of block (" + std::to_string(at.block.x) + ", " +
                    std::to_string(at.block.y) + ", " + std::to_string(at.block.z) + "): " + what);
}

// Those of the grid before, unless it failed and left its fibres standing in them.
struct Stacks {
  std::unique_ptr<std::byte[]> bytes;
  size_t size = 0;
};
Stacks spare;
Stacks TakeStacks(size_t size) {
  if (spare.size < size) spare = {std::unique_ptr<std::byte[]>(new std::byte[size]), size};
  return std::exchange(spare, {});
}

// One block; its fibres switch back here whenever they wait or end.
class Block final {
 public:
  Block(unsigned threads, const std::function<void()>& body);
  void Run(Position at, uint64_t serial);
  // Called by the running fibre.
  void Wait(State state);
  void FailHere(std::string what);
  Fibre& running() { return *running_; }
  Stacks&& stacks() { return std::move(stacks_); }
  bool HasStackAt(uintptr_t at) const {
    return at - reinterpret_cast<uintptr_t>(stacks_.bytes.get()) < fibres_.size() * kStackBytes;
  }
  // Null on another thread, which may copy meanwhile.
  Fibre* RunningHere() { return std::this_thread::get_id() == runner_ ? running_ : nullptr; }

 private:
  static void Main();
  void ReleaseBlockBarrier();
  bool ReleaseWarp(unsigned warp);
  void Deliver(unsigned first, unsigned mask);
  Fibre* At(unsigned thread) { return &fibres_[thread]; }

  const std::function<void()>& body_;
  std::vector<Fibre> fibres_;
  Stacks stacks_;
  Place scheduler_ = {};
  Fibre* running_ = nullptr;
  const std::thread::id runner_ = std::this_thread::get_id();
  std::string fault_;  // of the fibre that ran last
};

Block* current = nullptr;

Block::Block(unsigned threads, const std::function<void()>& body)
    : body_(body), fibres_(threads), stacks_(TakeStacks(threads * kStackBytes)) {
  for (unsigned t = 0; t < threads; ++t) {
    ucontext_t& start = fibres_[t].start;
    getcontext(&start);
    start.uc_stack.ss_sp = stacks_.bytes.get() + t * kStackBytes;
    start.uc_stack.ss_size = kStackBytes;
    start.uc_link = nullptr;
    makecontext(&start, &Block::Main, 0);
  }
}

// A fibre is the same thread of every block.
void Block::Main() {
  for (;;) {
    current->body_();
    current->Wait(State::kEnded);
  }
}

// The scheduler throws; the fibre is left as it is.
void Block::FailHere(std::string what) {
  fault_ = std::move(what);
  Wait(State::kEnded);
}

void Block::Wait(State state) {
  Fibre* const self = running_;
  self->state = state;
  Switch(&self->place, &scheduler_);
}

void Block::Run(Position at, uint64_t serial) {
  const auto threads = static_cast<unsigned>(fibres_.size());
  block_index = at;
  block_dim = {threads, 1, 1};
  for (unsigned t = 0; t < threads; ++t) {
    Fibre& fibre = fibres_[t];
    fibre.state = State::kRuns;
    fibre.self = {.thread = t, .threads = threads, .block = at, .serial = serial};
  }
  for (bool all_ended = false; !all_ended;) {
    bool moved = false;
    for (unsigned t = 0; t < threads; ++t) {
      if (fibres_[t].state != State::kRuns) continue;
      moved = true;
      running_ = At(t);
      thread_index = {t, 0, 0};
      if (std::exchange(running_->started, true)) {
        Switch(&scheduler_, &running_->place);
      } else {
        Start(&scheduler_, &running_->start);
      }
      running_ = nullptr;
      if (!fault_.empty()) Fail(fibres_[t].self, fault_);
    }
    for (unsigned warp = 0; warp * kLanes < threads; ++warp) moved = ReleaseWarp(warp) || moved;
    if (!moved) ReleaseBlockBarrier();
    all_ended = true;
    for (const Fibre& fibre : fibres_) all_ended = all_ended && fibre.state == State::kEnded;
  }
}

// Nobody can go on: either all wait at the barrier, or some never come.
void Block::ReleaseBlockBarrier() {
  const Fibre* waiting = nullptr;
  const Fibre* other = nullptr;
  for (const Fibre& fibre : fibres_) (fibre.state == State::kAtBlockBarrier ? waiting : other) = &fibre;
  if (waiting == nullptr || other != nullptr) {
    for (const Fibre& fibre : fibres_) {
      if (fibre.state == State::kInWarp) {
        Fail(fibre.self, std::string("waits in ") + NameOf(fibre.op) + " for lanes that do not come");
      }
    }
    Fail(other->self, "does not reach the __syncthreads of thread " + std::to_string(waiting->self.thread));
  }
  for (Fibre& fibre : fibres_) {
    fibre.state = State::kRuns;
    ++fibre.self.block_epoch;
  }
}

// Lets the lanes go whose whole mask has come.
bool Block::ReleaseWarp(unsigned warp) {
  const unsigned first = warp * kLanes;
  const unsigned lanes = std::min<unsigned>(kLanes, static_cast<unsigned>(fibres_.size()) - first);
  bool moved = false;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    const Fibre& fibre = fibres_[first + lane];
    if (fibre.state != State::kInWarp) continue;
    bool complete = true;
    for (unsigned other = 0; other < lanes; ++other) {
      if ((fibre.mask >> other & 1) == 0) continue;
      const Fibre& peer = fibres_[first + other];
      if (peer.state != State::kInWarp) {
        complete = false;
      } else if (peer.op != fibre.op || peer.mask != fibre.mask) {
        Fail(peer.self, std::string("is in ") + NameOf(peer.op) + " while thread " + std::to_string(first + lane) +
                            " is in " + NameOf(fibre.op) + " with another operation or mask");
      }
    }
    if (complete) {
      Deliver(first, fibre.mask & (lanes == kLanes ? ~0u : (1u << lanes) - 1));
      moved = true;
    }
  }
  return moved;
}

void Block::Deliver(unsigned first, unsigned mask) {
  uint64_t votes = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) != 0 && fibres_[first + lane].given != 0) votes |= uint64_t{1} << lane;
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    Fibre& fibre = fibres_[first + lane];
    if (fibre.op == WarpOp::kBallot) fibre.taken = votes;
    if (fibre.op == WarpOp::kExchange) {
      if ((mask >> fibre.from_lane & 1) == 0) Fail(fibre.self, "shuffles from a lane outside of the mask");
      fibre.taken = fibres_[first + static_cast<unsigned>(fibre.from_lane)].given;
    }
    fibre.state = State::kRuns;
    ++fibre.self.warp_epoch;
  }
}

uint64_t InWarp(WarpOp op, unsigned mask, uint64_t given, int from_lane) {
  Fibre& self = current->running();
  if ((mask >> LaneOfRunning() & 1) == 0) current->FailHere("is not in its own mask");
  self.op = op;
  self.mask = mask;
  self.given = given;
  self.from_lane = from_lane;
  current->Wait(State::kInWarp);
  return self.taken;
}

uint64_t next_serial = 1;

}  // namespace

const RunningThread& Running() { return current->running().self; }
const RunningThread* RunningOrNull() {
  Fibre* const fibre = current == nullptr ? nullptr : current->RunningHere();
  return fibre == nullptr ? nullptr : &fibre->self;
}
bool IsOnAStack(uintptr_t at) { return current != nullptr && current->HasStackAt(at); }
uint64_t NextSerial() { return next_serial; }
void FailRunning(std::string what) { current->FailHere(std::move(what)); }

void RunGrid(Position grid, unsigned threads, const std::function<void()>& body) {
  if (threads == 0 || threads > kMostThreads || grid.x == 0 || grid.y == 0 || grid.y > 65535 || grid.z != 1) {
    throw KernelFault("a launch that no device accepts: " + std::to_string(grid.x) + " x " + std::to_string(grid.y) +
                      " blocks of " + std::to_string(threads));
  }
  Block block(threads, body);
  current = &block;
  grid_dim = grid;
  StartLaunch();
  try {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) block.Run({x, y, 0}, next_serial++);
    }
  } catch (...) {
    current = nullptr;
    throw;
  }
  current = nullptr;
  spare = block.stacks();
}

void SyncBlock() { current->Wait(State::kAtBlockBarrier); }
void SyncWarp(unsigned mask) { InWarp(WarpOp::kSync, mask, 0, 0); }
uint64_t Exchange(unsigned mask, uint64_t bits, int from_lane) {
  return InWarp(WarpOp::kExchange, mask, bits, from_lane);
}
unsigned Ballot(unsigned mask, bool vote) {
  return static_cast<unsigned>(InWarp(WarpOp::kBallot, mask, vote ? 1 : 0, 0));
}

void CheckIndex(int64_t i, int64_t size) {
  if (i < 0 || i >= size) {
    current->FailHere("element " + std::to_string(i) + " of a shared array of " + std::to_string(size));
  }
}

AccessHistory::Access AccessHistory::Now() {
  const RunningThread& now = Running();
  return {.thread = now.thread, .block_epoch = now.block_epoch, .warp_epoch = now.warp_epoch};
}

bool AccessHistory::Races(const Access& before) {
  const Access now = Now();
  if (before.thread < 0 || before.block_epoch != now.block_epoch) return false;
  if (before.thread / kLanes != now.thread / kLanes) return true;
  return before.warp_epoch == now.warp_epoch && (before.several || before.thread != now.thread);
}

void AccessHistory::StartBlock() {
  if (serial_ == Running().serial) return;
  *this = {};
  serial_ = Running().serial;
}

void AccessHistory::Write(int64_t index) {
  StartBlock();
  const auto fail = [&](const Access& before, const char* did) {
    current->FailHere("writes element " + std::to_string(index) + " of shared memory, which thread " +
                      std::to_string(before.thread) + did);
  };
  if (Races(write_)) fail(write_, " wrote");
  for (const Access& read : reads_) {
    if (Races(read)) fail(read, " read");
  }
  write_ = Now();
}

void AccessHistory::Read(int64_t index) {
  StartBlock();
  if (write_.thread < 0) current->FailHere("reads element " + std::to_string(index) + " of shared memory, unwritten");
  if (Races(write_)) {
    current->FailHere("reads element " + std::to_string(index) + " of shared memory, which thread " +
                      std::to_string(write_.thread) + " wrote");
  }
  Access now = Now();
  Access& first = reads_[0];
  const bool first_is_ours =
      first.thread < 0 || first.thread / kLanes == now.thread / kLanes || first.block_epoch != now.block_epoch;
  Access& slot = first_is_ours ? first : reads_[1];
  const bool same_time = slot.thread >= 0 && slot.thread / kLanes == now.thread / kLanes &&
                         slot.block_epoch == now.block_epoch && slot.warp_epoch == now.warp_epoch;
  now.several = same_time && (slot.several || slot.thread != now.thread);
  slot = now;
}

}  // namespace lorad::emulator
