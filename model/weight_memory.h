#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include <ATen/core/Tensor.h>

namespace lorad {

// The memory that a model's weights lie in, side by side: one region, in huge pages where the system has them. A step
// reads every weight once, and with pages of 4 KiB waits for the page tables as well (bench/RESULTS.md).
//
// Threads  one. The region lives as long as the last of its tensors.
class WeightMemory final {
 public:
  // Reserves address space; memory is taken when it is written.
  explicit WeightMemory(int64_t capacity_bytes);

  // [shape], not initialised, 64-byte aligned. What does not fit any more, or could not be reserved, comes from
  // LibTorch.
  at::Tensor Empty(at::IntArrayRef shape, at::ScalarType dtype);

 private:
  class Region;
  std::shared_ptr<const Region> region_;
  int64_t used_bytes_ = 0;
};

}  // namespace lorad
