#pragma once

#include <cstdint>
#include <memory>

namespace lorad::cpu {

using RangeFn = void (*)(const void* context, int64_t begin, int64_t end);
void RunRanges(int64_t count, int64_t grain, RangeFn fn, const void* context);
void RunTasks(int64_t count, RangeFn fn, const void* context);

// Threads of the compute team (LibTorch's own, so that there is one team in the process).
int ComputeThreads();

// fn(begin, end) over consecutive ranges that cover [0, count), each of at least `grain` items; on the calling thread
// alone when count <= grain: waking the team costs 5 to 10 us.
template <typename Fn>
void ParallelFor(int64_t count, int64_t grain, const Fn& fn) {
  RunRanges(
      count, grain,
      [](const void* context, int64_t begin, int64_t end) { (*static_cast<const Fn*>(context))(begin, end); },
      std::addressof(fn));
}

// fn(task) for tasks of unequal cost: a thread that is done takes the next one.
template <typename Fn>
void ParallelTasks(int64_t count, const Fn& fn) {
  RunTasks(
      count, [](const void* context, int64_t task, int64_t) { (*static_cast<const Fn*>(context))(task); },
      std::addressof(fn));
}

// Float scratch of the calling thread, 64-byte aligned; grows only. Valid until the thread asks `which` again.
enum class Scratch { kRows, kWeights, kSums, kColumns };
inline constexpr int kScratches = 4;
float* ThreadScratch(Scratch which, int64_t floats);

}  // namespace lorad::cpu
