#include "tests/cuda_emulator/stream_races.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

extern "C" __attribute__((weak)) void __sanitizer_print_stack_trace();

namespace lorad::emulator {
namespace {

constexpr uintptr_t kCellBytes = 4;
constexpr size_t kMostRanges = 2;

// A component and its count, in one word; 0: nobody.
using Stamp = uint64_t;
constexpr unsigned kCountBits = 32;
constexpr Stamp kSeveral = Stamp{1} << 63;  // the rest: an index of readers
Stamp StampOf(Time time) { return Stamp{time.component} << kCountBits | time.count; }
Time TimeOf(Stamp stamp) { return {static_cast<uint32_t>(stamp >> kCountBits), static_cast<uint32_t>(stamp)}; }

struct Cell {
  Stamp write = 0;
  Stamp read = 0;
};
struct Range {
  uintptr_t begin = 0, end = 0;
  Cell* cells = nullptr;
};

std::array<Range, kMostRanges> ranges;
size_t num_ranges = 0;
std::mutex mutex;                         // of all cells
std::vector<std::vector<Stamp>> readers;  // of cells with several, none of them behind another
std::vector<Stamp> free_readers;

thread_local const Work* running = nullptr;
thread_local Stamp running_stamp = 0;
thread_local bool told = false;  // of what runs: once is enough
thread_local const std::vector<std::shared_ptr<const Work>>* replayed = nullptr;

std::function<void(const std::string&)> collector;

const Range* RangeOf(uintptr_t at) {
  for (size_t i = 0; i < num_ranges; ++i) {
    if (at >= ranges[i].begin && at < ranges[i].end) return &ranges[i];
  }
  return nullptr;
}
Cell* CellAt(const Range& range, uintptr_t at) { return range.cells + (at - range.begin) / kCellBytes; }

bool IsBehind(const Work& work, Stamp other) {
  const Time time = TimeOf(other);
  return time.component == work.time.component || Knows(work.before, time);
}

void Forget(Cell& cell) {
  if ((cell.read & kSeveral) != 0) free_readers.push_back(cell.read & ~kSeveral);
  cell = {};
}

// Whether this work's access adds nothing: whoever races with it races with what is there.
bool IsNoted(const Cell& cell, Stamp stamp, bool writes) {
  return (cell.write == stamp && cell.read == 0) || (!writes && cell.read == stamp);
}

// Whom it races with, or 0.
Stamp Read(const Work& work, Stamp stamp, Cell& cell) {
  const Stamp raced = IsBehind(work, cell.write) ? 0 : cell.write;
  if ((cell.read & kSeveral) != 0) {
    std::vector<Stamp>& several = readers[cell.read & ~kSeveral];
    for (Stamp& reader : several) {
      if (!IsBehind(work, reader)) continue;
      reader = stamp;
      return raced;
    }
    several.push_back(stamp);
  } else if (IsBehind(work, cell.read)) {
    cell.read = stamp;
  } else {
    if (free_readers.empty()) {
      free_readers.push_back(readers.size());
      readers.emplace_back();
    }
    const Stamp index = free_readers.back();
    free_readers.pop_back();
    readers[index] = {cell.read, stamp};
    cell.read = kSeveral | index;
  }
  return raced;
}
Stamp Write(const Work& work, Stamp stamp, Cell& cell) {
  Stamp raced = IsBehind(work, cell.write) ? 0 : cell.write;
  if ((cell.read & kSeveral) != 0) {
    for (const Stamp reader : readers[cell.read & ~kSeveral]) {
      if (!IsBehind(work, reader)) raced = reader;
    }
  } else if (!IsBehind(work, cell.read)) {
    raced = cell.read;
  }
  Forget(cell);
  cell.write = stamp;
  return raced;
}

void Tell(const Work& work, uintptr_t at, bool writes, Stamp other, bool other_wrote) {
  std::array<char, 32> address{};
  std::snprintf(address.data(), address.size(), "%#zx", static_cast<size_t>(at));
  ReportRace(NameOf(work.name) + " on " + StreamName(work.time.component) + (writes ? " writes " : " reads ") +
             address.data() + ", which " + Describe(TimeOf(other)) + (other_wrote ? " writes" : " reads") +
             ", and nothing orders the two");
}

// With mutex; the first race of a range.
void TouchLocked(const Work& work, Stamp stamp, uintptr_t at, size_t bytes, bool writes, bool* tells) {
  const Range* const range = bytes == 0 ? nullptr : RangeOf(at);
  if (range == nullptr) return;
  const Cell* const end = CellAt(*range, at + bytes - 1) + 1;
  for (Cell* cell = CellAt(*range, at); cell != end; ++cell) {
    if (IsNoted(*cell, stamp, writes)) continue;
    const Stamp wrote = cell->write;
    const Stamp raced = writes ? Write(work, stamp, *cell) : Read(work, stamp, *cell);
    if (raced == 0 || *tells) continue;
    *tells = true;
    Tell(work, range->begin + static_cast<uintptr_t>(cell - range->cells) * kCellBytes, writes, raced, raced == wrote);
  }
}

}  // namespace

void WatchRange(const void* begin, size_t bytes) {
  if (!WatchesStreams()) return;
  const std::lock_guard<std::mutex> lock(mutex);
  void* const cells = mmap(nullptr, bytes / kCellBytes * sizeof(Cell), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (cells == MAP_FAILED || num_ranges == kMostRanges) std::abort();
  const auto first = reinterpret_cast<uintptr_t>(begin);
  ranges[num_ranges++] = {first, first + bytes, static_cast<Cell*>(cells)};
}

void Touch(const Work& work, const void* at, size_t bytes, bool writes) {
  const std::lock_guard<std::mutex> lock(mutex);
  bool tells = false;
  TouchLocked(work, StampOf(work.time), reinterpret_cast<uintptr_t>(at), bytes, writes, &tells);
}

void TouchAnew(const Work& work, const void* at, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto first = reinterpret_cast<uintptr_t>(at);
  const Range* const range = bytes == 0 ? nullptr : RangeOf(first);
  if (range == nullptr) return;
  const Cell* const end = CellAt(*range, first + bytes - 1) + 1;
  for (Cell* cell = CellAt(*range, first); cell != end; ++cell) {
    Forget(*cell);
    cell->write = StampOf(work.time);
  }
}

Clock WhoTouched(const void* at, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  Clock who;
  const auto first = reinterpret_cast<uintptr_t>(at);
  const Range* const range = bytes == 0 ? nullptr : RangeOf(first);
  if (range == nullptr) return who;
  Stamp last = 0;
  const auto add = [&](Stamp stamp) {
    if (stamp == last || stamp == 0) return;
    const Time time = TimeOf(last = stamp);
    if (who.size() <= time.component) who.resize(time.component + 1);
    who[time.component] = std::max(who[time.component], time.count);
  };
  const Cell* const end = CellAt(*range, first + bytes - 1) + 1;
  for (const Cell* cell = CellAt(*range, first); cell != end; ++cell) {
    add(cell->write);
    if ((cell->read & kSeveral) == 0) {
      add(cell->read);
    } else {
      for (const Stamp reader : readers[cell->read & ~kSeveral]) add(reader);
    }
  }
  return who;
}

void TouchByHost(const char* call, const void* at, size_t bytes) {
  if (WatchesStreams()) Touch(NoteHostWork({call}), at, bytes, /*writes=*/true);
}

std::shared_ptr<const Work> WorkOf(const Ticket& ticket) {
  if (ticket.captured < 0) return ticket.work;
  return replayed == nullptr ? nullptr : (*replayed)[static_cast<size_t>(ticket.captured)];
}

RunningWork::RunningWork(const Ticket& ticket) : work_(WorkOf(ticket)) {
  if (work_ == nullptr) return;
  outer_ = std::exchange(running, work_.get());
  running_stamp = StampOf(work_->time);
  told = false;
}
RunningWork::~RunningWork() {
  if (work_ == nullptr) return;
  running = outer_;
  if (outer_ != nullptr) running_stamp = StampOf(outer_->time);
}
void RunningWork::Touches(const void* at, size_t bytes, bool writes) const {
  if (work_ != nullptr) Touch(*work_, at, bytes, writes);
}

RunningReplay::RunningReplay(const CapturedOrder& order) {
  if (!WatchesStreams()) return;
  works_ = order.Replay();
  replayed = &works_;
}
RunningReplay::~RunningReplay() { replayed = nullptr; }

void TouchByKernel(uintptr_t at, size_t bytes, bool writes) {
  if (running == nullptr) return;
  const Range* const range = RangeOf(at);
  if (range == nullptr) return;
  // Mostly it is the same work again; no other thread writes this work's stamp.
  const Cell* cell = CellAt(*range, at);
  const Cell* const end = CellAt(*range, at + bytes - 1) + 1;
  while (cell != end && IsNoted(*cell, running_stamp, writes)) ++cell;
  if (cell == end) return;
  const std::lock_guard<std::mutex> lock(mutex);
  TouchLocked(*running, running_stamp, at, bytes, writes, &told);
}

void ReportRace(const std::string& what) {
  if (collector) return collector(what);
  std::fprintf(stderr, "emulated device: a race between streams: %s\n", what.c_str());
  if (__sanitizer_print_stack_trace != nullptr) __sanitizer_print_stack_trace();
  std::abort();
}
void CollectRaces(std::function<void(const std::string&)> collect) { collector = std::move(collect); }
bool CollectsRaces() { return collector != nullptr; }

}  // namespace lorad::emulator
