#pragma once

#include <cuda_runtime.h>

namespace lorad::cuda {

// Adds to a sum of 64 bits, of which halves[0] are the lower ones: shared memory adds 32 bits in one operation, but 64
// in a loop that tries until no other thread came between. add(half, part) adds to one half, for all threads at once,
// and returns what was there before. Which thread carries depends on their order, the sum of all does not; before all
// have added it is of no use.
template <typename Add>
__device__ inline void AddInHalves(unsigned* halves, unsigned long long value, const Add& add) {
  const auto low = static_cast<unsigned>(value);
  const unsigned before = add(&halves[0], low);
  const unsigned carry = before + low < low ? 1u : 0u;
  const unsigned high = static_cast<unsigned>(value >> 32) + carry;
  if (high != 0) add(&halves[1], high);
}

}  // namespace lorad::cuda
