#include "tests/cuda_emulator/torch_allocators.h"

#include <functional>
#include <map>
#include <mutex>

#include "tests/cuda_emulator/capture.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/last_error.h"
#include "tests/cuda_emulator/pinned_memory.h"
#include "tests/cuda_emulator/torch_order.h"
#include "tests/cuda_emulator/virtual_memory.h"

namespace lorad::emulator {
namespace {

const c10::Device kDevice(c10::DeviceType::CUDA, 0);

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, kDevice};
    ThrowLastError();
    CapturedLaunches* const captured = Capturing();
    const auto allocate = [&] { return captured == nullptr ? AllocateOnDevice(bytes) : captured->Allocate(bytes); };
    void* data = allocate();
    if (data == nullptr && EmptyCaches()) data = allocate();
    TORCH_CHECK_WITH(OutOfMemoryError, data != nullptr, "the emulated device is full: bytes: ", bytes);
    NoteTorchAllocated(CurrentStream(), data, bytes);
    const auto free = +[](void* freed) {
      NoteTorchFreed(freed);
      FreeOfTorch(freed);
    };
    // What a capture allocates stays its own.
    return {data, data, captured == nullptr ? free : &NoteTorchFreed, kDevice};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    const DeviceAccess access;
    default_copy_data(to, from, bytes);
  }
};

struct PinnedAllocator final : at::HostAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* const data = AllocatePinned(bytes);
    const std::lock_guard<std::mutex> lock(Mutex());
    Blocks()[data] = false;
    return {data, data, &Free, c10::Device(c10::DeviceType::CPU)};
  }
  static void UseOnDevice(const at::Tensor& host) {
    const std::lock_guard<std::mutex> lock(Mutex());
    const auto block = Blocks().find(host.storage().mutable_data());
    if (block != Blocks().end()) block->second = true;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override {}
  void begin_allocate_to_pool(c10::MempoolId_t pool, std::function<bool(c10::Stream)>) override {
    HostPools().Begin(pool.second);
  }
  void end_allocate_to_pool(c10::MempoolId_t pool) override { HostPools().End(pool.second); }
  void release_pool(c10::MempoolId_t pool) override { HostPools().Release(pool.second); }
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}

 private:
  // As LibTorch's, which records an event for each stream that used the block: in a tensor's destructor.
  static void Free(void* data) {
    bool used = false;
    {
      const std::lock_guard<std::mutex> lock(Mutex());
      used = Blocks().extract(data).mapped();
    }
    if (used) ThrowLastError();
    FreePinnedLater(data);
  }
  static std::mutex& Mutex() {
    static auto* const mutex = new std::mutex;
    return *mutex;
  }
  // Whether the device used it.
  static std::map<void*, bool>& Blocks() {
    static auto* const blocks = new std::map<void*, bool>;
    return *blocks;
  }
};

}  // namespace

c10::Allocator& TorchDeviceAllocator() {
  static auto* const allocator = new DeviceAllocator;  // tensors may outlive statics
  return *allocator;
}
at::HostAllocator& TorchPinnedAllocator() {
  static auto* const allocator = new PinnedAllocator;
  return *allocator;
}
void UseOnDevice(const at::Tensor& host) { PinnedAllocator::UseOnDevice(host); }

void ThrowLastError() {
  const int error = DeviceIsLost() ? kErrorIllegalAddress : TakeLastError();
  TORCH_CHECK(error == 0, "CUDA error ", error, ", of this call or one before it");
}

}  // namespace lorad::emulator
