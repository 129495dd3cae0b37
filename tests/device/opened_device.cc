// The device as `lorad` finds it: of the machine's driver, by liblorad_cuda.so. LORAD_CUDA_LIBRARY says which; else it
// lies beside the program or in ../lib.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "absl/status/statusor.h"
#include "model/base/status_macros.h"
#include "model/ops/cuda_driver.h"
#include "model/ops/open_cuda.h"
#include "tests/device/test_device.h"

namespace lorad {
namespace {

DeviceMemory memory;

absl::StatusOr<DeviceMemory> Open() {
  RETURN_IF_ERROR(CheckCudaDevice());
  std::string library;
  if (const char* const given = std::getenv("LORAD_CUDA_LIBRARY"); given != nullptr) {
    library = given;
  } else {
    std::error_code error;
    const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
    ASSIGN_OR_RETURN(library, FindCudaLibrary(program.parent_path().string()));
  }
  return OpenCudaOps(library);
}

}  // namespace

void OpenTestDevice() {
  const absl::StatusOr<DeviceMemory> opened = Open();
  if (!opened.ok()) {
    std::fprintf(stderr, "no device to test on: %s\n", std::string(opened.status().message()).c_str());
    std::exit(1);
  }
  memory = *opened;
  std::printf("device: %s\n", CudaDeviceName().c_str());
}

const DeviceMemory& TestDeviceMemory() { return memory; }

bool TestDeviceIsEmulated() { return CudaDeviceName() == "emulated device"; }

}  // namespace lorad
