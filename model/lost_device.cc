#include "model/lost_device.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include <c10/core/impl/VirtualGuardImpl.h>

namespace lorad {
namespace {

c10::Device watched_device(c10::kCPU);
std::terminate_handler terminate_before = nullptr;

[[noreturn]] void End(const std::string& why) {
  const std::string first_line = why.substr(0, why.find('\n'));  // LibTorch's have a trace behind it
  std::fprintf(stderr, "lorad: device lost: %s; the daemon ends with %d; start it again\n", first_line.c_str(),
               kLostDeviceExitCode);
  std::fflush(stderr);
  std::_Exit(kLostDeviceExitCode);
}

void OnTerminate() {
  std::string why = "unknown";
  try {
    if (const std::exception_ptr thrown = std::current_exception()) std::rethrow_exception(thrown);
  } catch (const std::exception& error) {
    why = error.what();
  } catch (...) {
  }
  if (DeviceIsLost(watched_device)) End(why);
  if (terminate_before != nullptr) terminate_before();
  std::abort();
}

}  // namespace

bool DeviceIsLost(c10::Device device) {
  if (device.is_cpu()) return false;
  for (int i = 0; i < 2; ++i) {  // an error of somebody else's call comes once
    try {
      c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize();
      return false;
    } catch (const std::exception&) {
    }
  }
  return true;
}

void EndIfLost(c10::Device device, const absl::Status& status) {
  if (!status.ok() && DeviceIsLost(device)) End(status.ToString());
}

void EndIfLostOnTerminate(c10::Device device) {
  watched_device = device;
  terminate_before = std::set_terminate(&OnTerminate);
}

}  // namespace lorad
