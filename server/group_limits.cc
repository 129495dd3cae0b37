#include "server/group_limits.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"

namespace lorad {
namespace {

// This process's group, "/" for the topmost that it sees; "" without version 2.
std::string OwnGroup(const std::string& root) {
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (absl::StartsWith(line, "0::/")) return line.substr(line.find('/'));
  }
  return "";
}

// "max", or no file (as in the machine's topmost group): unset.
std::optional<int64_t> Number(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  int64_t value = 0;
  if (!(file >> word) || !absl::SimpleAtoi(word, &value)) return std::nullopt;
  return value;
}

// "QUOTA PERIOD", microseconds both.
std::optional<double> Cores(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  std::string quota;
  double period = 0.0, granted = 0.0;
  if (!(file >> quota >> period) || !absl::SimpleAtod(quota, &granted) || period <= 0.0) return std::nullopt;
  return granted / period;
}

int64_t FileCacheBytes(const std::string& folder) {
  std::ifstream file(folder + "/memory.stat");
  std::string key;
  int64_t bytes = 0, sum = 0;
  while (file >> key >> bytes) {
    if (key == "active_file" || key == "inactive_file") sum += bytes;
  }
  return sum;
}

template <typename T>
void Lower(const std::optional<T>& to, std::optional<T>* limit) {
  if (to && (!*limit || *to < **limit)) *limit = to;
}

std::optional<int64_t> MemoryLeft(const std::string& folder) {
  std::optional<int64_t> limit = Number(folder + "/memory.max");
  Lower(Number(folder + "/memory.high"), &limit);
  const std::optional<int64_t> used = Number(folder + "/memory.current");
  if (!limit || !used) return std::nullopt;
  return std::max(int64_t{0}, *limit - *used + FileCacheBytes(folder));
}

}  // namespace

GroupLimits ReadGroupLimits(const std::string& root) {
  GroupLimits limits;
  std::string group = OwnGroup(root);
  while (!group.empty()) {
    const std::string folder = root + "/sys/fs/cgroup" + group;
    Lower(Cores(folder), &limits.cores);
    Lower(MemoryLeft(folder), &limits.memory_bytes);
    if (group == "/") break;
    group.resize(std::max(size_t{1}, group.rfind('/')));  // the one above it; "/" in the end
  }
  return limits;
}

}  // namespace lorad
