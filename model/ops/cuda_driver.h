#pragma once

#include <string>

#include "absl/status/status.h"

namespace lorad {

// What the machine shows of NVIDIA's driver. Torch-free, as all of this file.
struct DriverFacts {
  std::string library_error = "";  // of the loader, for libcuda.so.1; "": it is open
  int start_code = 0;              // cuInit's; 0: it started
  std::string start_name = "";     // the same as a word: CUDA_ERROR_NO_DEVICE
  int devices = 0;                 // that this process may use
  bool kernel_module = false;      // /proc/driver/nvidia: loaded, also seen from inside of a container
  bool device_file = false;        // /dev/nvidiactl
  std::string device_error = "";   // of the system, for opening it; "": it opens, or a device is there
};

// Asks the system, and the driver's library once. `root` stands before the paths of the system's files.
DriverFacts ReadDriverFacts(const std::string& root = "");

// Whether somebody who serves on the CPU here may have meant a device: this process has one, or traces of a driver are
// here and so is liblorad_cuda.so. A build without it could not have used what a GPU's node shows inside of a
// container.
bool MayHaveMeantADevice(const DriverFacts& facts, bool has_cuda_library);

// What is missing for one device, and what to do about it. OK with a device. Errors: NotFound.
absl::Status CheckDriver(const DriverFacts& facts);

// Whether the driver and its first device can run liblorad_cuda.so. Errors: CheckDriver's; FailedPrecondition for a
// driver or a device that is too old.
absl::Status CheckCudaDevice();

// The first device's name, for people.
std::string CudaDeviceName();

}  // namespace lorad
