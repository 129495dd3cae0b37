#include "tests/cuda_emulator/capture.h"

#include <cstring>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/stream_races.h"
#include "tests/cuda_emulator/virtual_memory.h"

namespace lorad::emulator {
namespace {

thread_local CapturedLaunches* capturing = nullptr;

// Of one thread, as the graphs are.
std::set<CapturedLaunches*>& All() {
  static auto* const all = new std::set<CapturedLaunches*>;
  return *all;
}

Replays replays;

// What graphs that are gone had, by pool and size.
std::map<uint64_t, std::multimap<size_t, void*>>& Kept() {
  static auto* const kept = new std::map<uint64_t, std::multimap<size_t, void*>>;
  return *kept;
}

[[noreturn]] void Throw(const char* why) { throw std::runtime_error(why); }

}  // namespace

CapturedLaunches::CapturedLaunches(uint64_t pool) : pool_(pool) { All().insert(this); }

CapturedLaunches::~CapturedLaunches() {
  if (capturing == this) capturing = nullptr;
  All().erase(this);
  for (const Memory& memory : memory_) Kept()[pool_].emplace(memory.bytes, memory.data);
}

void CapturedLaunches::Begin() {
  RefuseInCapture("a second capture");
  capturing = this;
}

void CapturedLaunches::End() {
  if (capturing != this) throw std::runtime_error("an end of a capture that did not begin");
  capturing = nullptr;
  Forget();
  if (invalid_) Throw("the capture was invalidated");
}

void CapturedLaunches::Replay() {
  RefuseInCapture("a replay");
  for (const CapturedLaunches* other : All()) {
    if (other != this && other->pool_ == pool_) other->Forget();
  }
  {
    const RunningReplay replay(order_);
    for (const std::function<void()>& launch : launches_) launch();
  }
  ++replays.graphs;
  replays.launches += static_cast<int64_t>(launches_.size() - notes_);
}

void* CapturedLaunches::Allocate(size_t bytes) {
  auto& kept = Kept()[pool_];
  void* data = nullptr;
  if (const auto fits = kept.find(bytes); fits != kept.end()) {
    data = fits->second;
    kept.erase(fits);
  } else {
    data = AllocateOnDevice(bytes);
  }
  if (data != nullptr) memory_.push_back({data, bytes});
  return data;
}

void CapturedLaunches::Forget() const {
  const DeviceAccess access;
  for (const Memory& memory : memory_) std::memset(memory.data, 0xFF, memory.bytes);
}

CapturedLaunches* Capturing() { return capturing; }

void RefuseInCapture(const char* what) {
  if (capturing == nullptr) return;
  capturing->Invalidate();
  throw std::runtime_error(std::string("while launches are captured: ") + what);
}

void PoolBook::Begin(uint64_t pool) {
  if (underway_.contains(pool)) Throw("already recording to mempool_id");
  const auto [users, is_new] = users_.try_emplace(pool, 0);
  if (!is_new && users->second == 0) Throw("use_count > 0 INTERNAL ASSERT FAILED");
  ++users->second;
  underway_.insert(pool);
}

void PoolBook::End(uint64_t pool) {
  if (underway_.erase(pool) == 0) Throw("not currently recording to mempool_id");
}

void PoolBook::Release(uint64_t pool) {
  const auto users = users_.find(pool);
  if (users == users_.end() || users->second == 0) Throw("a pool without users is released");
  --users->second;
}

std::set<uint64_t> PoolBook::TakeUnused() {
  std::set<uint64_t> unused;
  for (const auto& [pool, users] : users_) {
    if (users == 0) unused.insert(pool);
  }
  for (const uint64_t pool : unused) users_.erase(pool);
  return unused;
}

PoolBook& DevicePools() {
  static auto* const pools = new PoolBook;
  return *pools;
}
PoolBook& HostPools() {
  static auto* const pools = new PoolBook;
  return *pools;
}

bool EmptyCaches() {
  if (DevicePools().underway()) return false;
  EmptyTorchCache();
  for (const uint64_t pool : DevicePools().TakeUnused()) {
    for (const auto& [bytes, data] : Kept()[pool]) FreeOnDevice(data);
    Kept().erase(pool);
  }
  return true;
}

Replays ReplaysSoFar() { return replays; }

}  // namespace lorad::emulator
