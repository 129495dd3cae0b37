#pragma once

#include <cstdint>
#include <memory>

#include "model/ops/cpu/team.h"

// The only place where the operators meet threads: one team computes for the whole process.
namespace lorad::cpu {

// Threads that compute, the caller's included; as many as cores until it is set. Not while anybody computes.
int ComputeThreads();
void SetComputeThreads(int threads);

// While it lives the team spins between regions. One forward, sampling included, is one such span.
ComputeTeam::KeepAwake KeepTeamAwake();

void RunRanges(int64_t count, int64_t grain, ComputeTeam::Fn fn, const void* context);
void RunTasks(int64_t count, ComputeTeam::Fn fn, const void* context);

// fn(begin, end) over ranges that cover [0, count), each but the last of at least `grain` items; on the calling thread
// alone when count <= grain: a region costs 1 to 2 us.
template <typename Fn>
void ParallelFor(int64_t count, int64_t grain, const Fn& fn) {
  RunRanges(
      count, grain,
      [](const void* context, int64_t begin, int64_t end) { (*static_cast<const Fn*>(context))(begin, end); },
      std::addressof(fn));
}

// fn(task) for tasks of unequal cost, each given to a thread by itself.
template <typename Fn>
void ParallelTasks(int64_t count, const Fn& fn) {
  RunTasks(
      count,
      [](const void* context, int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) (*static_cast<const Fn*>(context))(task);
      },
      std::addressof(fn));
}

// Float scratch of the calling thread, 64-byte aligned; grows only. Valid until the thread asks `which` again.
enum class Scratch { kRows, kWeights, kSums, kColumns };
inline constexpr int kScratches = 4;
float* ThreadScratch(Scratch which, int64_t floats);

}  // namespace lorad::cpu
