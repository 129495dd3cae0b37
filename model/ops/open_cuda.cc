#include "model/ops/open_cuda.h"

#include <dlfcn.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/cuda_driver.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

std::string LastError() {
  const char* const text = dlerror();
  return text == nullptr ? "no reason given" : text;
}

}  // namespace

absl::StatusOr<std::string> FindCudaLibrary(const std::string& program_dir) {
  const std::string beside = absl::StrCat(program_dir, "/liblorad_cuda.so");
  const std::string in_lib = absl::StrCat(program_dir, "/../lib/liblorad_cuda.so");
  for (const std::string& path : {beside, in_lib}) {
    if (access(path.c_str(), R_OK) == 0) return path;
  }
  return absl::NotFoundError(absl::StrCat("CUDA operators: no ", beside, " and no ", in_lib,
                                          "; build the preset cuda and put it there, or take the ",
                                          "image for GPUs (deploy/README.md)"));
}

absl::StatusOr<DeviceMemory> OpenCudaOps(const std::string& path) {
  RETURN_IF_ERROR(CheckCudaDevice());
  if (access(path.c_str(), R_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("CUDA operators: no ", path, "; build the preset cuda"));
  }
  // Global: LibTorch's CUDA parts come with it and register themselves.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "CUDA operators: ", path, ": ", LastError(),
        "; it needs LibTorch's CUDA libraries and NVIDIA's: scripts/setup --gpu, or deploy/container/collect --cuda"));
  }
  const auto* const found = static_cast<const CudaLibrary*>(dlsym(library, kCudaLibrarySymbol));
  if (found == nullptr) return absl::FailedPreconditionError(absl::StrCat("CUDA operators: ", LastError()));
  if (found->version != kCudaLibraryVersion) {
    return absl::FailedPreconditionError(absl::StrCat("CUDA operators: version: ", found->version, "; limit: ",
                                                      kCudaLibraryVersion, "; build ", path, " with this program"));
  }
  found->begin();
  InstallCudaOps(&found->ops);
  return found->memory;
}

std::vector<std::string> CheckFastForms(std::vector<std::string>* used) {
  const auto check = InstalledCudaOps().check_fast_forms;
  return check == nullptr ? std::vector<std::string>() : check(used);
}

void LeaveOutFastForms() {
  if (const auto leave_out = InstalledCudaOps().leave_out_fast_forms; leave_out != nullptr) leave_out();
}

}  // namespace lorad
