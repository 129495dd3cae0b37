#pragma once

#include "model/ops/cuda/add_in_halves.cuh"

// Shared memory of a block: `__shared__ SharedArray<float, 32> sums;`. Plain memory on a device; on the include path of
// the block emulator (tests/cuda_emulator) stands one that knows who wrote what, and when.
namespace lorad::cuda {

template <typename T, int N>
struct SharedArray {
  __device__ T& operator[](int i) { return values[i]; }
  // Threads that add need no barrier between them; a sum is whole behind the next one.
  __device__ void AtomicAdd(int i, T value) {
    if constexpr (sizeof(T) == sizeof(unsigned long long)) {
      AddInHalves(reinterpret_cast<unsigned*>(&values[i]), value,
                  [](unsigned* half, unsigned part) { return atomicAdd(half, part); });
    } else {
      atomicAdd(&values[i], value);
    }
  }
  // Four elements of four bytes in one access; i: a multiple of four.
  __device__ void PutFour(int i, const uint4& four) { *reinterpret_cast<uint4*>(values + i) = four; }
  __device__ uint4 Four(int i) const { return *reinterpret_cast<const uint4*>(values + i); }
  alignas(16) T values[N];
};

}  // namespace lorad::cuda
