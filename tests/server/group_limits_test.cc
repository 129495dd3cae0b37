#include "server/group_limits.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "tests/support/test_files.h"

namespace lorad {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// A machine's files, of which `group` is this process's group.
class Machine final {
 public:
  explicit Machine(const std::string& group) { Write("/proc/self/cgroup", "1:name=systemd:/old\n0::" + group + "\n"); }

  void Write(const std::string& path, const std::string& text) {
    const std::string whole = dir_.path() + path;
    std::filesystem::create_directories(std::filesystem::path(whole).parent_path());
    WriteFile(whole, text);
  }
  // Of `group`, "" for the topmost.
  void Cores(const std::string& group, const std::string& text) { Write("/sys/fs/cgroup" + group + "/cpu.max", text); }
  void Memory(const std::string& group, const std::string& max, int64_t used_bytes, int64_t file_bytes) {
    const std::string folder = "/sys/fs/cgroup" + group;
    Write(folder + "/memory.max", max + "\n");
    Write(folder + "/memory.current", std::to_string(used_bytes) + "\n");
    Write(folder + "/memory.stat", "anon 77\nfile 99\ninactive_file " + std::to_string(file_bytes / 4) +
                                       "\nactive_file " + std::to_string(file_bytes - file_bytes / 4) + "\nshmem 5\n");
  }
  GroupLimits limits() const { return ReadGroupLimits(dir_.path()); }

 private:
  TempDir dir_;
};

TEST(GroupLimitsTest, APodsQuotaIsItsCores) {
  Machine machine("/");
  machine.Cores("", "400000 100000\n");
  EXPECT_EQ(machine.limits().cores, 4.0);
  machine.Cores("", "250000 100000\n");
  EXPECT_EQ(machine.limits().cores, 2.5);
}

TEST(GroupLimitsTest, WhatCachesFilesIsLeft) {
  Machine machine("/");
  machine.Memory("", std::to_string(1000 * kMiB), 900 * kMiB, 700 * kMiB);
  EXPECT_EQ(machine.limits().memory_bytes, 800 * kMiB);
  machine.Memory("", std::to_string(1000 * kMiB), 1001 * kMiB, 0);
  EXPECT_EQ(machine.limits().memory_bytes, 0);
}

TEST(GroupLimitsTest, WhereTheSystemBeginsToHoldUpIsALimit) {
  Machine machine("/");
  machine.Memory("", "max", 100 * kMiB, 0);
  machine.Write("/sys/fs/cgroup/memory.high", std::to_string(300 * kMiB));
  EXPECT_EQ(machine.limits().memory_bytes, 200 * kMiB);
}

TEST(GroupLimitsTest, TheLeastOfAllGroupsAboveCounts) {
  Machine machine("/system.slice/lorad.service");
  machine.Cores("/system.slice/lorad.service", "max 100000\n");
  machine.Cores("/system.slice", "300000 100000\n");
  machine.Memory("/system.slice/lorad.service", std::to_string(500 * kMiB), 0, 0);
  machine.Memory("/system.slice", std::to_string(400 * kMiB), 100 * kMiB, 0);
  EXPECT_EQ(machine.limits().cores, 3.0);
  EXPECT_EQ(machine.limits().memory_bytes, 300 * kMiB);
  machine.Cores("", "100000 100000\n");
  EXPECT_EQ(machine.limits().cores, 1.0);
}

TEST(GroupLimitsTest, WithoutALimitThereIsNone) {
  Machine machine("/");
  EXPECT_FALSE(machine.limits().cores || machine.limits().memory_bytes);
  machine.Cores("", "max 100000\n");
  machine.Memory("", "max", 5, 5);
  EXPECT_FALSE(machine.limits().cores || machine.limits().memory_bytes);
}

TEST(GroupLimitsTest, WhatItCannotReadIsNoLimit) {
  EXPECT_FALSE(ReadGroupLimits("/nowhere").cores);
  for (const char* text : {"", "many 100000\n", "400000\n", "400000 0\n"}) {
    Machine machine("/");
    machine.Cores("", text);
    EXPECT_FALSE(machine.limits().cores) << text;
  }
  for (const char* text : {"", "many\n"}) {
    Machine machine("/");
    machine.Memory("", text, 0, 0);
    EXPECT_FALSE(machine.limits().memory_bytes) << text;
  }
  Machine machine("nonsense");
  machine.Cores("", "400000 100000\n");
  EXPECT_FALSE(machine.limits().cores);
}

}  // namespace
}  // namespace lorad
