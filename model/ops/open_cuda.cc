#include "model/ops/open_cuda.h"

#include <dlfcn.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

std::string LastError() {
  const char* const text = dlerror();
  return text == nullptr ? "no reason given" : text;
}

}  // namespace

int CountCudaDevices() {
  // The driver's own interface: LibTorch's CUDA parts are not opened for nothing.
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return 0;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  int devices = 0;
  if (init == nullptr || count == nullptr || init(0) != 0 || count(&devices) != 0) return 0;
  return devices;
}

absl::Status OpenCudaOps(const std::string& path) {
  if (CountCudaDevices() == 0) return absl::NotFoundError("CUDA devices: 0; limit: 1 or more");
  if (access(path.c_str(), R_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("CUDA operators: no ", path, "; build the preset cuda"));
  }
  // Global: LibTorch's CUDA parts come with it and register themselves.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return absl::FailedPreconditionError(absl::StrCat("CUDA operators: ", LastError()));
  const auto* const found = static_cast<const CudaLibrary*>(dlsym(library, kCudaLibrarySymbol));
  if (found == nullptr) return absl::FailedPreconditionError(absl::StrCat("CUDA operators: ", LastError()));
  if (found->version != kCudaLibraryVersion) {
    return absl::FailedPreconditionError(absl::StrCat("CUDA operators: version: ", found->version, "; limit: ",
                                                      kCudaLibraryVersion, "; build ", path, " with this program"));
  }
  InstallCudaOps(&found->ops);
  return absl::OkStatus();
}

}  // namespace lorad
