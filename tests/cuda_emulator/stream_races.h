#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_emulator/stream_order.h"

// Who touched which bytes last, by cells of four: two pieces of work race when at least one of them writes and neither
// is behind the other. Of the device's memory and pinned memory; what the host does to the former is by its calls
// (mapping, freeing), the latter is closed to it (pinned_memory.h).
namespace lorad::emulator {

// Memory whose cells are kept; all of it is untouched.
void WatchRange(const void* begin, size_t bytes);

void Touch(const Work& work, const void* at, size_t bytes, bool writes);
// What was there is forgotten, and `work` wrote it.
void TouchAnew(const Work& work, const void* at, size_t bytes);
// All who touched it since then.
Clock WhoTouched(const void* at, size_t bytes);

// The host does it, by a call of that name: for which all must be done.
void TouchByHost(const char* call, const void* at, size_t bytes);

// While one lives, this thread runs that work: what kernels touch is its.
class RunningWork final {
 public:
  explicit RunningWork(const Ticket& ticket);
  ~RunningWork();
  RunningWork(const RunningWork&) = delete;
  RunningWork& operator=(const RunningWork&) = delete;
  void Reads(const void* at, size_t bytes) const { Touches(at, bytes, false); }
  void Writes(const void* at, size_t bytes) const { Touches(at, bytes, true); }

 private:
  void Touches(const void* at, size_t bytes, bool writes) const;
  std::shared_ptr<const Work> work_;
  const Work* outer_ = nullptr;
};
// Of a ticket that a capture gave: while a replay runs.
std::shared_ptr<const Work> WorkOf(const Ticket& ticket);
class RunningReplay final {
 public:
  explicit RunningReplay(const CapturedOrder& order);
  ~RunningReplay();
  RunningReplay(const RunningReplay&) = delete;
  RunningReplay& operator=(const RunningReplay&) = delete;

 private:
  std::vector<std::shared_ptr<const Work>> works_;
};

// Called before each access of a kernel.
void TouchByKernel(uintptr_t at, size_t bytes, bool writes);

// The process ends by the first race, unless somebody collects them.
void ReportRace(const std::string& what);
void CollectRaces(std::function<void(const std::string&)> collect);
bool CollectsRaces();

}  // namespace lorad::emulator
