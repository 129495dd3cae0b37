#include "tests/cuda_emulator/device_memory.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/stream_races.h"
#include "tests/cuda_emulator/virtual_memory.h"

namespace lorad::emulator {
namespace {

constexpr size_t kAlignment = 256;  // as cudaMalloc's
constexpr size_t kRedZone = 256;    // behind every allocation
constexpr size_t kLargeBytes = size_t{4} << 20;

std::atomic<bool> has_virtual_memory = true;

// Powers of two, so that what is freed serves again.
size_t TakenFor(size_t bytes) {
  const size_t with_zone = bytes + kRedZone;
  return with_zone < kLargeBytes ? std::bit_ceil(with_zone) : (with_zone + kAlignment - 1) / kAlignment * kAlignment;
}

class Device final {
 public:
  static Device& Get() {
    static Device* const device = new Device;  // tensors may outlive statics
    return *device;
  }
  static bool Exists() { return exists.load(); }

  void* Allocate(size_t bytes) {
    const DeviceAccess access;
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t taken = TakenFor(bytes);
    if (used_ + taken > limit_) return nullptr;
    std::byte* const data = TakeAddresses(taken);
    if (data == nullptr) return nullptr;
    Use(taken);
    taken_[data] = taken;
    ASAN_UNPOISON_MEMORY_REGION(data, bytes);
    std::memset(data, 0xFF, bytes);
    if (WatchesStreams()) TouchAnew(NoteHostWork({"an allocation"}), data, bytes);
    return data;
  }

  void Free(void* data) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = taken_.find(static_cast<std::byte*>(data));
    if (found == taken_.end()) Die("freed what is not the device's");
    ASAN_POISON_MEMORY_REGION(found->first, found->second);
    used_ -= found->second;
    free_.emplace(found->second, found->first);
    taken_.erase(found);
  }

  size_t BytesOf(void* data) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = taken_.find(static_cast<std::byte*>(data));
    return found == taken_.end() ? 0 : found->second;
  }

  // What is reserved is taken of the addresses alone, with a red zone behind it.
  std::byte* Reserve(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return TakeAddresses(bytes + kRedZone);
  }
  void Unreserve(std::byte* data, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.emplace(bytes + kRedZone, data);
  }
  bool Take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (used_ + bytes > limit_) return false;
    Use(bytes);
    return true;
  }
  void GiveBack(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    used_ -= bytes;
  }

  bool AddMapping(std::byte* at, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto above = mappings_.lower_bound(at);
    if (above != mappings_.end() && above->first < at + bytes) return false;
    if (above != mappings_.begin() && std::prev(above)->first + std::prev(above)->second > at) return false;
    return mappings_.emplace(at, bytes).second;
  }
  bool RemoveMapping(std::byte* at, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = mappings_.find(at);
    if (found == mappings_.end() || found->second != bytes) return false;
    mappings_.erase(found);
    return true;
  }
  bool AreMapped(std::byte* at, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::byte* const end = at + bytes;
    for (auto found = mappings_.find(at); at < end && found != mappings_.end(); ++found) {
      if (found->first != at) return false;
      at += found->second;
    }
    return at == end;
  }

  void KeepFreed(bool keep) { keep_freed_ = keep; }
  void FreeOfTorch(void* data) {
    if (!keep_freed_) return Free(data);
    const std::lock_guard<std::mutex> lock(mutex_);
    ASAN_POISON_MEMORY_REGION(data, taken_.at(static_cast<std::byte*>(data)));
    kept_.push_back(data);
  }
  void EmptyCache() {
    std::vector<void*> kept;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      kept.swap(kept_);
    }
    for (void* const data : kept) Free(data);
  }

  void Enter() {
    const std::lock_guard<std::mutex> lock(access_mutex_);
    ++accesses_;
    if (inside_++ == 0) Protect(PROT_READ | PROT_WRITE);
  }
  void Leave() {
    const std::lock_guard<std::mutex> lock(access_mutex_);
    if (--inside_ == 0) Protect(PROT_NONE);
  }

  int64_t accesses() {
    const std::lock_guard<std::mutex> lock(access_mutex_);
    return accesses_;
  }
  size_t free_bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return used_ < limit_ ? limit_ - used_ : 0;
  }
  size_t used_bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return used_;
  }
  size_t TakePeak() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(peak_, used_);
  }
  void SetLimit(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    limit_ = bytes;
  }

 private:
  Device() {
    void* const mapped =
        mmap(nullptr, kMappedDeviceBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) Die("no address space for the device");
    base_ = static_cast<std::byte*>(mapped);
    madvise(base_, kMappedDeviceBytes, MADV_HUGEPAGE);  // its protection changes with every launch
    ASAN_POISON_MEMORY_REGION(base_, kMappedDeviceBytes);
    WatchRange(base_, kMappedDeviceBytes);
    exists = true;
  }
  void Use(size_t bytes) {  // with mutex_, as below
    used_ += bytes;
    peak_ = std::max(peak_, used_);
  }
  // nullptr: there are no more.
  std::byte* TakeAddresses(size_t bytes) {
    if (const auto found = free_.find(bytes); found != free_.end()) {
      std::byte* const data = found->second;
      free_.erase(found);
      return data;
    }
    const size_t aligned = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (end_ + aligned > kMappedDeviceBytes) return nullptr;
    end_ += aligned;
    return base_ + end_ - aligned;
  }
  void Protect(int how) {
    if (mprotect(base_, kMappedDeviceBytes, how) != 0) Die("mprotect failed");
  }
  [[noreturn]] static void Die(const char* why) {
    std::fprintf(stderr, "emulated device: %s\n", why);
    std::abort();
  }

  static inline std::atomic<bool> exists = false;

  std::mutex mutex_;
  std::byte* base_ = nullptr;
  size_t end_ = 0;   // of what was ever handed out
  size_t used_ = 0;  // red zones included
  size_t peak_ = 0;  // of it
  size_t limit_ = kMappedDeviceBytes;
  std::unordered_map<std::byte*, size_t> taken_;
  std::multimap<size_t, std::byte*> free_;  // by size, which is not cut
  std::map<std::byte*, size_t> mappings_;   // of reserved addresses
  std::atomic<bool> keep_freed_ = false;
  std::vector<void*> kept_;  // freed, and taken as before

  std::mutex access_mutex_;
  int inside_ = 0;
  int64_t accesses_ = 0;
};

}  // namespace

void* AllocateOnDevice(size_t bytes) { return Device::Get().Allocate(bytes); }
void FreeOnDevice(void* data) { Device::Get().Free(data); }
size_t BytesOnDevice(void* data) { return Device::Get().BytesOf(data); }
size_t FreeDeviceBytes() { return Device::Get().free_bytes(); }
size_t UsedDeviceBytes() { return Device::Get().used_bytes(); }
int64_t DeviceAccesses() { return Device::Get().accesses(); }
void SetDeviceBytes(size_t bytes) { Device::Get().SetLimit(bytes); }

void SetVirtualMemory(bool has) { has_virtual_memory = has; }
bool HasVirtualMemory() { return has_virtual_memory; }
std::byte* ReserveAddresses(size_t bytes) { return Device::Get().Reserve(bytes); }
void FreeAddresses(std::byte* at, size_t bytes) { Device::Get().Unreserve(at, bytes); }
bool TakeMemory(size_t bytes) { return Device::Get().Take(bytes); }
void GiveMemoryBack(size_t bytes) { Device::Get().GiveBack(bytes); }
bool AddMapping(std::byte* at, size_t bytes) { return Device::Get().AddMapping(at, bytes); }
bool RemoveMapping(std::byte* at, size_t bytes) { return Device::Get().RemoveMapping(at, bytes); }
bool AreMapped(std::byte* at, size_t bytes) { return Device::Get().AreMapped(at, bytes); }
void MapMemory(std::byte* at, size_t bytes) {
  TouchByHost("cuMemMap", at, bytes);
  const DeviceAccess access;
  ASAN_UNPOISON_MEMORY_REGION(at, bytes);
  std::memset(at, 0xFF, bytes);
}
void UnmapMemory(std::byte* at, size_t bytes) {
  TouchByHost("cuMemUnmap", at, bytes);
  ASAN_POISON_MEMORY_REGION(at, bytes);
}

void KeepWhatTorchFrees(bool keep) { Device::Get().KeepFreed(keep); }
void FreeOfTorch(void* data) { Device::Get().FreeOfTorch(data); }
void EmptyTorchCache() { Device::Get().EmptyCache(); }

size_t TakePeakDeviceBytes() { return Device::Get().TakePeak(); }

DeviceAccess::DeviceAccess() : entered_(Device::Exists()) {
  if (entered_) Device::Get().Enter();
}
DeviceAccess::~DeviceAccess() {
  if (entered_) Device::Get().Leave();
}

}  // namespace lorad::emulator
