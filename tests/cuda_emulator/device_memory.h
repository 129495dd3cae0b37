#pragma once

#include <cstddef>
#include <cstdint>

// The memory of the emulated device: a mapping of its own, which nobody may touch but kernels and copies while they
// run. Whoever else reads or writes it dies by a fault with its address.
namespace lorad::emulator {

// nullptr: the device is full. What is new is not a number in any type; AddressSanitizer knows what is in use.
void* AllocateOnDevice(size_t bytes);
void FreeOnDevice(void* data);
size_t BytesOnDevice(void* data);  // of that allocation
size_t FreeDeviceBytes();
size_t UsedDeviceBytes();
inline constexpr size_t kMappedDeviceBytes = size_t{256} << 20;
// From now on the device has no more than this; what it has handed out stays.
void SetDeviceBytes(size_t bytes);

// How often somebody began to touch it: kernels, copies, operators.
int64_t DeviceAccesses();

// While one lives, the memory may be touched: by other threads too, which is where this is coarser than a device.
class DeviceAccess final {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;

 private:
  const bool entered_;  // there is such memory
};

}  // namespace lorad::emulator
