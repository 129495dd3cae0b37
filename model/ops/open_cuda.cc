#include "model/ops/open_cuda.h"

#include <dlfcn.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

std::string LastError() {
  const char* const text = dlerror();
  return text == nullptr ? "no reason given" : text;
}

// A function of the driver's own interface, so that LibTorch's CUDA parts are not opened for nothing; nullptr without a
// driver that starts.
template <typename Function>
Function* OfDriver(const char* name) {
  static void* const driver = [] {
    void* const opened = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) return opened;
    const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(opened, "cuInit"));
    return init != nullptr && init(0) == 0 ? opened : nullptr;
  }();
  return driver == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(driver, name));
}

// What a function of the driver's writes, 0 where it fails or there is none.
template <typename... Rest>
int AskDriver(const char* name, Rest... rest) {
  const auto ask = OfDriver<int(int*, Rest...)>(name);
  int answer = 0;
  return ask != nullptr && ask(&answer, rest...) == 0 ? answer : 0;
}

}  // namespace

absl::Status CheckCudaDevice() {
  // What LibTorch's CUDA wants of a driver, and the oldest architecture that the library is built for
  // (cmake/lorad_cuda.cmake).
  constexpr int kLeastDriver = 13000, kLeastMajor = 8;
  constexpr int kMajorAttribute = 75, kMinorAttribute = 76, kFirstDevice = 0;  // of cuda.h
  if (AskDriver("cuDeviceGetCount") == 0) return absl::NotFoundError("CUDA devices: 0; limit: 1 or more");
  if (const int driver = AskDriver("cuDriverGetVersion"); driver < kLeastDriver) {
    return absl::FailedPreconditionError(absl::StrCat("CUDA of the driver: ", driver / 1000, ".", driver % 1000 / 10,
                                                      "; limit: ", kLeastDriver / 1000,
                                                      ".0 or later; update NVIDIA's driver"));
  }
  const int major = AskDriver("cuDeviceGetAttribute", kMajorAttribute, kFirstDevice);
  if (major >= kLeastMajor) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "CUDA device: ", CudaDeviceName(), "; compute capability: ", major, ".",
      AskDriver("cuDeviceGetAttribute", kMinorAttribute, kFirstDevice), "; limit: ", kLeastMajor, ".0 or later"));
}

std::string CudaDeviceName() {
  const auto name_of = OfDriver<int(char*, int, int)>("cuDeviceGetName");
  char name[256] = {};
  return name_of != nullptr && name_of(name, sizeof(name), 0) == 0 ? name : "unknown";
}

absl::StatusOr<std::string> FindCudaLibrary(const std::string& program_dir) {
  const std::string beside = absl::StrCat(program_dir, "/liblorad_cuda.so");
  const std::string in_lib = absl::StrCat(program_dir, "/../lib/liblorad_cuda.so");
  for (const std::string& path : {beside, in_lib}) {
    if (access(path.c_str(), R_OK) == 0) return path;
  }
  return absl::NotFoundError(
      absl::StrCat("CUDA operators: no ", beside, " and no ", in_lib, "; build the preset cuda and put it there"));
}

absl::StatusOr<DeviceMemory> OpenCudaOps(const std::string& path) {
  RETURN_IF_ERROR(CheckCudaDevice());
  if (access(path.c_str(), R_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("CUDA operators: no ", path, "; build the preset cuda"));
  }
  // Global: LibTorch's CUDA parts come with it and register themselves.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr)
    return absl::FailedPreconditionError(absl::StrCat("CUDA operators: ", path, ": ", LastError()));
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
