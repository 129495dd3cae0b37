#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "model/memory/pool_memory.h"

// A pool's memory on the current CUDA device; part of liblorad_cuda.so. Copies go on streams of their own, which wait
// for no step and for which none waits: a step is over when its answer is there, and only then are pages moved or given
// to somebody else.
namespace lorad::cuda {

absl::StatusOr<std::unique_ptr<PoolMemory>> CreateMemory(int64_t bytes);
absl::StatusOr<int64_t> AvailableBytes();

}  // namespace lorad::cuda
