#pragma once

#include <string>

#include "absl/status/status.h"

namespace lorad {

// Opens liblorad_cuda.so and installs its operators, if the machine has a CUDA device. Torch-free; to be called before
// the first call of Torch, once: what is open stays open.
// Errors: NotFound without a driver or a device (nothing is opened then) or without the file; FailedPrecondition for a
// library that does not load or is of another version, with the reason.
absl::Status OpenCudaOps(const std::string& path);

// How many CUDA devices the driver has; 0 without a driver.
int CountCudaDevices();

}  // namespace lorad
