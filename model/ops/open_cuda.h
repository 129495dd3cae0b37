#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/memory/pool_memory.h"

namespace lorad {

// Opens liblorad_cuda.so and installs its operators, if the machine has a CUDA device; gives the device's memory.
// Torch-free; to be called before the first call of Torch, once: what is open stays open.
// Errors: CheckCudaDevice's (model/ops/cuda_driver.h; nothing is opened then); NotFound without the file;
// FailedPrecondition for a library that does not load or is of another version, with the reason.
absl::StatusOr<DeviceMemory> OpenCudaOps(const std::string& path);

// Compares the forms of operators that other libraries' kernels have with ours, on the device; until then, and where
// they differ, ours are used. A line for each that does; `used` gets the names of those that do not. Behind
// OpenCudaOps, while nothing else computes; once is enough.
std::vector<std::string> CheckFastForms(std::vector<std::string>* used = nullptr);
// Instead: none of them, and of ours none on tensor cores.
void LeaveOutFastForms();

// Where the library is: in `program_dir`, or in lib beside it. Errors: NotFound names both.
absl::StatusOr<std::string> FindCudaLibrary(const std::string& program_dir);

}  // namespace lorad
