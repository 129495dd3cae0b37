#include "model/ops/cpu/parallel.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>

namespace lorad::cpu {
namespace {

class AlignedFloats final {
 public:
  ~AlignedFloats() { std::free(data_); }
  float* Grow(int64_t floats) {
    if (floats > capacity_) {
      std::free(data_);
      capacity_ = 0;
      const int64_t rounded = (floats + 1023) / 1024 * 1024;
      data_ = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(rounded) * sizeof(float)));
      if (data_ == nullptr) throw std::bad_alloc();
      capacity_ = rounded;
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  int64_t capacity_ = 0;
};

// The operators have no context to carry a team in, and two teams would fight for the cores. Whoever comes first says
// how many (0: as many as there are cores): no threads are made that are not wanted.
std::unique_ptr<ComputeTeam>& Team(int threads = 0) {
  // Asked once: the number of cores is read from a file, and this is called in each region.
  static std::unique_ptr<ComputeTeam> team =
      std::make_unique<ComputeTeam>(threads > 0 ? threads : static_cast<int>(std::thread::hardware_concurrency()));
  return team;
}

}  // namespace

int ComputeThreads() { return Team()->threads(); }

void SetComputeThreads(int threads) {
  std::unique_ptr<ComputeTeam>& team = Team(threads);
  if (threads == team->threads()) return;
  team.reset();
  team = std::make_unique<ComputeTeam>(threads);
}

ComputeTeam::KeepAwake KeepTeamAwake() { return ComputeTeam::KeepAwake(Team().get()); }

void RunRanges(int64_t count, int64_t grain, ComputeTeam::Fn fn, const void* context) {
  constexpr int64_t kRangesPerThread = 4;  // so that a thread on a busy core is relieved of some
  const int64_t ranges = ComputeThreads() * kRangesPerThread;
  Team()->Run(count, std::max(grain, (count + ranges - 1) / ranges), fn, context);
}

void RunTasks(int64_t count, ComputeTeam::Fn fn, const void* context) { Team()->Run(count, 1, fn, context); }

float* ThreadScratch(Scratch which, int64_t floats) {
  thread_local AlignedFloats buffers[kScratches];
  return buffers[static_cast<int>(which)].Grow(floats);
}

}  // namespace lorad::cpu
