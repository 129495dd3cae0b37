// A libcuda.so.1 that says of itself what `lorad` asks before it opens liblorad_cuda.so: one device, of
// an H100's kind unless LORAD_EMULATED_CAPABILITY (75: 7.5) and LORAD_EMULATED_DRIVER (12040: 12.4) say otherwise; none
// with LORAD_EMULATED_INIT, which is what cuInit answers then.
#include <cstdlib>
#include <cstring>

namespace {

int NumberOf(const char* variable, int absent) {
  const char* const given = std::getenv(variable);
  return given == nullptr ? absent : std::atoi(given);
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return NumberOf("LORAD_EMULATED_INIT", 0); }
int cuGetErrorName(int code, const char** name) {
  *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = 1;
  return 0;
}
int cuDriverGetVersion(int* version) {
  *version = NumberOf("LORAD_EMULATED_DRIVER", 13000);
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  constexpr int kMajor = 75, kMinor = 76;
  const int capability = NumberOf("LORAD_EMULATED_CAPABILITY", 90);
  *value = attribute == kMajor ? capability / 10 : attribute == kMinor ? capability % 10 : 0;
  return 0;
}
int cuDeviceGetName(char* name, int length, int) {
  std::strncpy(name, "emulated device", static_cast<size_t>(length) - 1);
  return 0;
}

}  // extern "C"
