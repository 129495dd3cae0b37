#include "model/ops/cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include <ATen/Parallel.h>

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

}  // namespace

int ComputeThreads() { return at::get_num_threads(); }

void RunRanges(int64_t count, int64_t grain, RangeFn fn, const void* context) {
  if (count <= 0) return;
  if (count <= grain) {
    fn(context, 0, count);
    return;
  }
  at::parallel_for(0, count, std::max<int64_t>(grain, 1), [&](int64_t begin, int64_t end) { fn(context, begin, end); });
}

void RunTasks(int64_t count, RangeFn fn, const void* context) {
  if (count <= 0) return;
  const int64_t threads = std::min<int64_t>(count, ComputeThreads());
  if (threads == 1) {
    for (int64_t task = 0; task < count; ++task) fn(context, task, task + 1);
    return;
  }
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t task = next.fetch_add(1); task < count; task = next.fetch_add(1)) fn(context, task, task + 1);
  });
}

float* ThreadScratch(Scratch which, int64_t floats) {
  thread_local AlignedFloats buffers[kScratches];
  return buffers[static_cast<int>(which)].Grow(floats);
}

}  // namespace lorad::cpu
