#include "tests/cuda_emulator/global_memory.h"

#include <dlfcn.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/stream_races.h"

extern "C" char __data_start, _end;  // of the program's variables

namespace lorad::emulator {
namespace {

constexpr unsigned kLanes = 32;
constexpr uintptr_t kPageBytes = 4096;
constexpr size_t kMostPages = 4096;

struct Access {
  uint32_t launch = 0;  // 0: none
  uint32_t block = 0;   // in its launch
  uint16_t thread = 0;
  uint16_t block_epoch = 0;
  uint16_t warp_epoch = 0;
  bool atomic = false;
};
struct Cell {
  Access write;
  // Of two threads or blocks: with a third it is the same, since a writer races with at least one of two.
  std::array<Access, 2> reads;
};

enum class Kind { kRead, kWrite, kAtomic };

// Looking costs several times what the kernels do.
const bool watches = std::getenv("LORAD_EMULATOR_WATCHES_MEMORY") != nullptr;
uint32_t launch = 0;
uint64_t first_block = 0;  // its serial

Access Now(const RunningThread& running, bool atomic) {
  return {.launch = launch,
          .block = static_cast<uint32_t>(running.serial - first_block),
          .thread = static_cast<uint16_t>(running.thread),
          .block_epoch = static_cast<uint16_t>(running.block_epoch),
          .warp_epoch = static_cast<uint16_t>(running.warp_epoch),
          .atomic = atomic};
}

bool IsSameThread(const Access& a, const Access& b) { return a.block == b.block && a.thread == b.thread; }

bool AreOrdered(const Access& before, const Access& now) {
  if (before.launch != now.launch) return true;
  if (before.block != now.block) return false;
  if (before.block_epoch != now.block_epoch || before.thread == now.thread) return true;
  return before.thread / kLanes == now.thread / kLanes && before.warp_epoch != now.warp_epoch;
}

bool Race(const Access& before, const Access& now) {
  return !AreOrdered(before, now) && !(before.atomic && now.atomic);
}

// Cells of `grain` bytes. Threads that write neighbouring bytes need cells of one.
class Shadow final {
 public:
  explicit Shadow(uintptr_t grain) : grain_(grain) {}

  // What an access there races with, or null.
  const Access* Note(uintptr_t at, uintptr_t bytes, Kind kind, const Access& now) {
    for (uintptr_t byte = at / grain_ * grain_; byte < at + bytes; byte += grain_) {
      if (const Access* const other = Note(CellAt(byte), kind, now); other != nullptr) return other;
    }
    return nullptr;
  }
  void Shrink() {
    if (pages_.size() < kMostPages) return;
    pages_.clear();
    last_ = nullptr;
  }

 private:
  using Page = std::unique_ptr<Cell[]>;

  Cell& CellAt(uintptr_t byte) {
    const uintptr_t page = byte / kPageBytes;
    if (last_ == nullptr || page != last_page_) {
      Page& cells = pages_[page];
      if (cells == nullptr) cells.reset(new Cell[kPageBytes / grain_]);
      last_ = cells.get();
      last_page_ = page;
    }
    return last_[byte % kPageBytes / grain_];
  }

  static const Access* Note(Cell& cell, Kind kind, const Access& now) {
    if (Race(cell.write, now)) return &cell.write;
    if (kind != Kind::kRead) {
      for (const Access& read : cell.reads) {
        if (Race(read, now)) return &read;
      }
      cell.write = now;
      return nullptr;
    }
    Access& first = cell.reads[0];
    const bool first_is_over = first.launch != now.launch || IsSameThread(first, now);
    (first_is_over || (first.block == now.block && first.block_epoch != now.block_epoch) ? first : cell.reads[1]) = now;
    return nullptr;
  }

  const uintptr_t grain_;
  std::unordered_map<uintptr_t, Page> pages_;
  uintptr_t last_page_ = 0;
  Cell* last_ = nullptr;
};

Shadow& ByteShadow() {
  static auto* const shadow = new Shadow(1);
  return *shadow;
}
Shadow& PairShadow() {
  static auto* const shadow = new Shadow(2);
  return *shadow;
}

bool IsOfTheProgram(uintptr_t at) {
  return at >= reinterpret_cast<uintptr_t>(&__data_start) && at < reinterpret_cast<uintptr_t>(&_end);
}

void Look(uintptr_t at, uintptr_t bytes, Kind kind) {
  const RunningThread* const running = RunningOrNull();
  if (running == nullptr || IsOfTheProgram(at) || IsOnAStack(at)) return;
  const Access now = Now(*running, kind == Kind::kAtomic);
  Shadow& shadow = bytes == 1 ? ByteShadow() : PairShadow();
  const Access* const other = shadow.Note(at, bytes, kind, now);
  if (other == nullptr) return;
  std::array<char, 32> address{};
  std::snprintf(address.data(), address.size(), "%#zx", static_cast<size_t>(at));
  FailRunning(std::string(kind == Kind::kRead    ? "reads "
                          : kind == Kind::kWrite ? "writes "
                                                 : "adds to ") +
              std::to_string(bytes) + " bytes at " + address.data() + " of the device's memory, beside thread " +
              std::to_string(other->thread) + " of block " +
              (other->block == now.block ? "its own" : std::to_string(other->block % grid_dim.x)) +
              ", and nothing orders the two");
}

void Note(uintptr_t at, uintptr_t bytes, Kind kind) {
  if (watches) Look(at, bytes, kind);
  TouchByKernel(at, bytes, kind != Kind::kRead);
}

using Check = void (*)(uintptr_t);
using CheckMany = void (*)(uintptr_t, uintptr_t);
template <typename Function>
Function SanitizersOwn(const char* name) {
  void* const found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) std::abort();
  return reinterpret_cast<Function>(found);
}

}  // namespace

void AtomicAccess(const void* at, size_t bytes) { Note(reinterpret_cast<uintptr_t>(at), bytes, Kind::kAtomic); }

void StartLaunch() {
  ++launch;
  first_block = NextSerial();
  ByteShadow().Shrink();
  PairShadow().Shrink();
}

}  // namespace lorad::emulator

// Before AddressSanitizer's own of these names, which they call.
#define LORAD_ACCESS(name, bytes, kind)                                                    \
  extern "C" void name(uintptr_t at);                                                      \
  extern "C" void name(uintptr_t at) {                                                     \
    static const auto own = lorad::emulator::SanitizersOwn<lorad::emulator::Check>(#name); \
    own(at);                                                                               \
    lorad::emulator::Note(at, bytes, lorad::emulator::Kind::kind);                         \
  }
LORAD_ACCESS(__asan_load1, 1, kRead)
LORAD_ACCESS(__asan_load2, 2, kRead)
LORAD_ACCESS(__asan_load4, 4, kRead)
LORAD_ACCESS(__asan_load8, 8, kRead)
LORAD_ACCESS(__asan_load16, 16, kRead)
LORAD_ACCESS(__asan_store1, 1, kWrite)
LORAD_ACCESS(__asan_store2, 2, kWrite)
LORAD_ACCESS(__asan_store4, 4, kWrite)
LORAD_ACCESS(__asan_store8, 8, kWrite)
LORAD_ACCESS(__asan_store16, 16, kWrite)
#undef LORAD_ACCESS
#define LORAD_ACCESS(name, kind)                                                               \
  extern "C" void name(uintptr_t at, uintptr_t bytes);                                         \
  extern "C" void name(uintptr_t at, uintptr_t bytes) {                                        \
    static const auto own = lorad::emulator::SanitizersOwn<lorad::emulator::CheckMany>(#name); \
    own(at, bytes);                                                                            \
    lorad::emulator::Note(at, bytes, lorad::emulator::Kind::kind);                             \
  }
LORAD_ACCESS(__asan_loadN, kRead)
LORAD_ACCESS(__asan_storeN, kWrite)
#undef LORAD_ACCESS
