#include "model/ops/cuda_driver.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

// The driver's own interface, so that LibTorch's CUDA parts are not opened for nothing.
struct Driver {
  void* library = nullptr;
  std::string error;  // why it is not open
  int start_code = 0;
};

const Driver& OpenedDriver() {
  static const Driver opened = [] {
    Driver driver;
    driver.library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver.library == nullptr) {
      const char* const text = dlerror();
      driver.error = text == nullptr ? "no reason given" : text;
      return driver;
    }
    const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver.library, "cuInit"));
    if (init == nullptr) {
      driver.error = "libcuda.so.1: no cuInit in it";
      driver.library = nullptr;
      return driver;
    }
    driver.start_code = init(0);
    return driver;
  }();
  return opened;
}

// nullptr without a driver.
template <typename Function>
Function* OfDriver(const char* name) {
  void* const library = OpenedDriver().library;
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library, name));
}

// What a function of the driver's writes, 0 where it fails or there is none.
template <typename... Rest>
int AskDriver(const char* name, Rest... rest) {
  const auto ask = OfDriver<int(int*, Rest...)>(name);
  int answer = 0;
  return ask != nullptr && ask(&answer, rest...) == 0 ? answer : 0;
}

std::string ErrorName(int code) {
  const auto name_of = OfDriver<int(int, const char**)>("cuGetErrorName");
  const char* name = nullptr;
  return name_of != nullptr && name_of(code, &name) == 0 && name != nullptr ? name : "unknown";
}

std::string WhyFileDoesNotOpen(const std::string& path) {
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return std::strerror(errno);
  close(file);
  return "";
}

// CUresult of cuda.h; what to do about them is in NVIDIA's manual, "Data types used by CUDA driver".
constexpr int kStubLibrary = 34, kNoDevice = 100, kNotReady = 802, kDriverMismatch = 803, kCompatNotSupported = 804;

constexpr absl::string_view kContainer =
    "a container sees a device by NVIDIA's container toolkit: podman --device=nvidia.com/gpu=all, docker --gpus=all, "
    "Kubernetes nvidia.com/gpu: 1";

std::string NextStep(const DriverFacts& facts) {
  if (!facts.library_error.empty()) {
    if (!facts.kernel_module && !facts.device_file) return "install NVIDIA's driver";
    return absl::StrCat("the driver's kernel module is there, its library is not found: ", kContainer,
                        "; elsewhere install the driver's libraries (Debian: libcuda1)");
  }
  if (!facts.device_error.empty()) {
    return absl::StrCat("/dev/nvidiactl: ", facts.device_error,
                        "; let this user read and write /dev/nvidia*, and systemd's unit (DeviceAllow)");
  }
  switch (facts.start_code) {
    case kStubLibrary:
      return "this libcuda.so.1 is the toolkit's, for linking: take its folder out of LD_LIBRARY_PATH";
    case kNotReady:
      return "start nvidia-fabricmanager, and look at nvidia-smi";
    case kDriverMismatch:
    case kCompatNotSupported:
      return "the driver's library and its kernel module differ: restart the machine after an update; in a container "
             "take "
             "CUDA's compat folder out of LD_LIBRARY_PATH";
    case kNoDevice:
    case 0:
      if (facts.device_file)
        return "CUDA_VISIBLE_DEVICES, or the container, leaves none; nvidia-smi -L lists what is there";
      return absl::StrCat("no /dev/nvidiactl here: systemd's PrivateDevices hides it (deploy/systemd/gpu.conf); ",
                          kContainer);
    default:
      return "nvidia-smi, and the kernel's log, say more";
  }
}

}  // namespace

DriverFacts ReadDriverFacts(const std::string& root) {
  const Driver& driver = OpenedDriver();
  DriverFacts facts;
  facts.library_error = driver.error;
  facts.start_code = driver.start_code;
  if (driver.start_code != 0) facts.start_name = ErrorName(driver.start_code);
  if (driver.error.empty() && driver.start_code == 0) facts.devices = AskDriver("cuDeviceGetCount");
  facts.kernel_module = access((root + "/proc/driver/nvidia/version").c_str(), F_OK) == 0;
  const std::string file = root + "/dev/nvidiactl";
  facts.device_file = access(file.c_str(), F_OK) == 0;
  if (facts.device_file && facts.devices == 0) facts.device_error = WhyFileDoesNotOpen(file);
  return facts;
}

bool MayHaveMeantADevice(const DriverFacts& facts, bool has_cuda_library) {
  if (facts.devices > 0) return true;
  return has_cuda_library && (facts.library_error.empty() || facts.kernel_module || facts.device_file);
}

absl::Status CheckDriver(const DriverFacts& facts) {
  if (facts.devices > 0) return absl::OkStatus();
  std::string why;
  if (!facts.library_error.empty()) {
    why = facts.library_error;
  } else if (facts.start_code != 0) {
    why = absl::StrCat("cuInit: ", facts.start_code, " (", facts.start_name, ")");
  } else {
    why = "the driver started and has none";
  }
  return absl::NotFoundError(absl::StrCat("CUDA devices: 0; limit: 1 or more; ", why, "; ", NextStep(facts)));
}

absl::Status CheckCudaDevice() {
  // What LibTorch's CUDA wants of a driver, and the oldest architecture that the library is built for
  // (cmake/lorad_cuda.cmake).
  constexpr int kLeastDriver = 13000, kLeastMajor = 8;
  constexpr int kMajorAttribute = 75, kMinorAttribute = 76, kFirstDevice = 0;  // of cuda.h
  RETURN_IF_ERROR(CheckDriver(ReadDriverFacts()));
  if (const int driver = AskDriver("cuDriverGetVersion"); driver < kLeastDriver) {
    return absl::FailedPreconditionError(absl::StrCat("CUDA of the driver: ", driver / 1000, ".", driver % 1000 / 10,
                                                      "; limit: ", kLeastDriver / 1000,
                                                      ".0 or later; update NVIDIA's driver to 580 or later"));
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

}  // namespace lorad
