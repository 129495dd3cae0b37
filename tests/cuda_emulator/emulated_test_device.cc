// The emulated device, with which the program is linked.
#include "tests/cuda_emulator/torch_device.h"
#include "tests/device/test_device.h"

namespace lorad {

void OpenTestDevice() {
  emulator::RegisterDevice();
  emulator::EmulatedLibrary().begin();
  InstallCudaOps(&emulator::EmulatedLibrary().ops);
}

const DeviceMemory& TestDeviceMemory() { return emulator::EmulatedLibrary().memory; }

bool TestDeviceIsEmulated() { return true; }

}  // namespace lorad
