#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "scheduler/executor.h"

namespace lorad {

// What a warm-up may use of an engine that has not begun: all pages are free.
struct WarmUpLimits {
  int64_t batch_tokens = 0;
  int64_t total_pages = 0;
  int64_t pages_of_block = 1;
};

// Runs steps of nobody, of one token and of as many as fit: what a device does once, when it starts libraries, loads
// kernels and captures, and the memory that a large step wants of it, are not the first requests' to pay, nor is the
// time that this takes seen as that of a step. It writes free blocks. Errors: the executor's.
absl::Status WarmUp(const WarmUpLimits& limits, StepExecutor* executor);

}  // namespace lorad
