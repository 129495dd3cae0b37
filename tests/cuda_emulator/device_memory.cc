#include "tests/cuda_emulator/device_memory.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>

namespace lorad::emulator {
namespace {

constexpr size_t kAlignment = 256;  // as cudaMalloc's
constexpr size_t kRedZone = 256;    // behind every allocation
constexpr size_t kLargeBytes = size_t{4} << 20;

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
    std::byte* data = nullptr;
    if (const auto found = free_.lower_bound(taken); found != free_.end() && found->first == taken) {
      data = found->second;
      free_.erase(found);
    } else {
      if (end_ + taken > kMappedDeviceBytes) return nullptr;
      data = base_ + end_;
      end_ += taken;
    }
    used_ += taken;
    taken_[data] = taken;
    ASAN_UNPOISON_MEMORY_REGION(data, bytes);
    std::memset(data, 0xFF, bytes);
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

  void Enter() {
    const std::lock_guard<std::mutex> lock(access_mutex_);
    if (inside_++ == 0) Protect(PROT_READ | PROT_WRITE);
  }
  void Leave() {
    const std::lock_guard<std::mutex> lock(access_mutex_);
    if (--inside_ == 0) Protect(PROT_NONE);
  }

  size_t free_bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return used_ < limit_ ? limit_ - used_ : 0;
  }
  size_t used_bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return used_;
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
    exists = true;
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
  size_t limit_ = kMappedDeviceBytes;
  std::unordered_map<std::byte*, size_t> taken_;
  std::multimap<size_t, std::byte*> free_;  // by size, which is not cut

  std::mutex access_mutex_;
  int inside_ = 0;
};

}  // namespace

void* AllocateOnDevice(size_t bytes) { return Device::Get().Allocate(bytes); }
void FreeOnDevice(void* data) { Device::Get().Free(data); }
size_t FreeDeviceBytes() { return Device::Get().free_bytes(); }
size_t UsedDeviceBytes() { return Device::Get().used_bytes(); }
void SetDeviceBytes(size_t bytes) { Device::Get().SetLimit(bytes); }

DeviceAccess::DeviceAccess() : entered_(Device::Exists()) {
  if (entered_) Device::Get().Enter();
}
DeviceAccess::~DeviceAccess() {
  if (entered_) Device::Get().Leave();
}

}  // namespace lorad::emulator
