// A libcuda.so.1 that says of itself what `lorad` asks before it opens liblorad_cuda.so: one device.
#include <cstring>

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int* count) {
  *count = 1;
  return 0;
}
int cuDeviceGetName(char* name, int length, int) {
  std::strncpy(name, "emulated device", static_cast<size_t>(length) - 1);
  return 0;
}

}  // extern "C"
