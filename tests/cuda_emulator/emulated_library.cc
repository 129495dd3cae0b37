// Makes of the emulated device a liblorad_cuda.so that `lorad` itself opens: LibTorch learns of the device when it
// does.
#include "tests/cuda_emulator/global_memory.h"
#include "tests/cuda_emulator/torch_device.h"

namespace {

__attribute__((constructor)) void RegisterWhenOpened() { lorad::emulator::RegisterDevice(); }

}  // namespace

// Nobody watches memory here, without AddressSanitizer.
namespace lorad::emulator {
void AtomicAccess(const void*, size_t) {}
void StartLaunch() {}
}  // namespace lorad::emulator
