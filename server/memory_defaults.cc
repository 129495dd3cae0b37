#include "server/memory_defaults.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "server/group_limits.h"

namespace lorad {
namespace {

constexpr int64_t kLeastPoolBytes = int64_t{64} << 20;
constexpr int64_t kMostPoolBytes = int64_t{16} << 30;
constexpr int64_t kMostHostAdapterBytes = int64_t{4} << 30;
constexpr int64_t kMostGraphBytes = int64_t{1} << 30;

}  // namespace

int64_t DefaultMemoryBytes(int64_t available_bytes) {
  return std::clamp(available_bytes / 2, kLeastPoolBytes, kMostPoolBytes);
}

int64_t DefaultDeviceMemoryBytes(int64_t available_bytes) { return available_bytes / 5 * 4; }

int64_t DefaultHostAdapterBytes(bool pool_on_host, int64_t available_bytes) {
  return pool_on_host ? 0 : std::min(kMostHostAdapterBytes, available_bytes / 2);
}

int64_t DeviceGraphBytes(int64_t memory_bytes) { return std::min(memory_bytes / 16, kMostGraphBytes); }

int64_t AvailableMemoryBytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key, unit;
  int64_t kib = 0;
  while (meminfo >> key >> kib) {
    std::getline(meminfo, unit);
    if (key != "MemAvailable:") continue;
    const int64_t of_machine = kib << 10;
    return std::max(int64_t{1}, std::min(of_machine, ReadGroupLimits().memory_bytes.value_or(of_machine)));
  }
  return 0;
}

}  // namespace lorad
