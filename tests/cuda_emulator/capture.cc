#include "tests/cuda_emulator/capture.h"

#include <cstring>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "tests/cuda_emulator/device_memory.h"

namespace lorad::emulator {
namespace {

thread_local CapturedLaunches* capturing = nullptr;

// Of one thread, as the graphs are.
std::set<CapturedLaunches*>& All() {
  static auto* const all = new std::set<CapturedLaunches*>;
  return *all;
}

Replays replays;

}  // namespace

CapturedLaunches::CapturedLaunches(uint64_t pool) : pool_(pool) { All().insert(this); }

CapturedLaunches::~CapturedLaunches() {
  if (capturing == this) capturing = nullptr;
  All().erase(this);
  for (const Memory& memory : memory_) FreeOnDevice(memory.data);
}

void CapturedLaunches::Begin() {
  RefuseInCapture("a second capture");
  capturing = this;
}

void CapturedLaunches::End() {
  if (capturing != this) throw std::runtime_error("an end of a capture that did not begin");
  capturing = nullptr;
  Forget();
}

void CapturedLaunches::Replay() {
  RefuseInCapture("a replay");
  for (const CapturedLaunches* other : All()) {
    if (other != this && other->pool_ == pool_) other->Forget();
  }
  for (const std::function<void()>& launch : launches_) launch();
  ++replays.graphs;
  replays.launches += static_cast<int64_t>(launches_.size());
}

void* CapturedLaunches::Allocate(size_t bytes) {
  void* const data = AllocateOnDevice(bytes);
  if (data != nullptr) memory_.push_back({data, bytes});
  return data;
}

void CapturedLaunches::Forget() const {
  const DeviceAccess access;
  for (const Memory& memory : memory_) std::memset(memory.data, 0xFF, memory.bytes);
}

CapturedLaunches* Capturing() { return capturing; }

void RefuseInCapture(const char* what) {
  if (capturing != nullptr) throw std::runtime_error(std::string("while launches are captured: ") + what);
}

Replays ReplaysSoFar() { return replays; }

}  // namespace lorad::emulator
