#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace lorad {

// What the control group of this process leaves it. A container, a pod or a unit of systemd has its limits there;
// neither /proc/meminfo nor the scheduler's affinity shows them.
struct GroupLimits {
  std::optional<double> cores;          // cpu.max; unset: no limit
  std::optional<int64_t> memory_bytes;  // that memory.max and memory.high leave, with what only caches files
};

// The least of the group's own and of those above it, as far as they can be seen. Version 2 of control groups alone.
// `root` stands before the paths of the system's files.
GroupLimits ReadGroupLimits(const std::string& root = "");

}  // namespace lorad
