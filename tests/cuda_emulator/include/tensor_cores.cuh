#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

// Stands in for model/ops/cuda/device/tensor_cores.cuh: each lane collects, by shuffles, the two rows and the two
// columns whose products it holds, from the lanes that hold them by the PTX ISA's layout of mma.m16n8k16. A register
// has two consecutive elements, the first one in its lower half:
//   a  lane 4 g + t, registers 0 to 3: elements 2t and 2t + 1 of rows g and g + 8, then 2t + 8 and 2t + 9 of both
//   b  lane 4 g + t, registers 0 and 1: elements 2t and 2t + 1 of column g, then 2t + 8 and 2t + 9
//   c  lane 4 g + t: columns 2t and 2t + 1 of row g, then of row g + 8
namespace lorad::emulator {

inline bool mma_is_wrong = false;  // the two columns of a lane are exchanged

}  // namespace lorad::emulator

namespace lorad::cuda {

inline void MmaBf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  constexpr unsigned kAll = 0xFFFFFFFFu;
  const int group = emulator::LaneOfRunning() / 4, in_group = emulator::LaneOfRunning() % 4;
  // Two registers at a time: the first in the lower half.
  const auto two = [](unsigned first, unsigned second) { return uint64_t{second} << 32 | first; };
  const auto put = [](unsigned pair, float* to) {
    to[0] = __uint_as_float(pair << 16);
    to[1] = __uint_as_float(pair & 0xFFFF0000u);
  };
  float rows[2][16], columns[2][16];
  for (int t = 0; t < 4; ++t) {
    for (int half = 0; half < 2; ++half) {
      const uint64_t of_rows = __shfl_sync(kAll, two(a[2 * half], a[2 * half + 1]), 4 * group + t);
      put(static_cast<unsigned>(of_rows), rows[0] + 2 * t + 8 * half);
      put(static_cast<unsigned>(of_rows >> 32), rows[1] + 2 * t + 8 * half);
    }
    for (int n = 0; n < 2; ++n) {
      const uint64_t of_column = __shfl_sync(kAll, two(b[0], b[1]), 4 * (2 * in_group + n) + t);
      put(static_cast<unsigned>(of_column), columns[n] + 2 * t);
      put(static_cast<unsigned>(of_column >> 32), columns[n] + 2 * t + 8);
    }
  }
  for (int i = 0; i < 4; ++i) {
    const int column = emulator::mma_is_wrong ? 1 - i % 2 : i % 2;
    for (int k = 0; k < 16; ++k) c[i] += rows[i / 2][k] * columns[column][k];
  }
}

// Each half in f64, in which a product and a sum of bf16 far less than 2^30 apart are exact.
inline unsigned MultiplyAddPairs(unsigned a, unsigned b, unsigned c) {
  const auto half = [](unsigned a, unsigned b, unsigned c) {
    const auto wide = [](unsigned bits) { return static_cast<double>(__uint_as_float(bits << 16)); };
    const double sum = wide(a) * wide(b) + wide(c);
    return unsigned{__float2bfloat16_rn(static_cast<float>(sum)).bits};
  };
  return half(a & 0xFFFFu, b & 0xFFFFu, c & 0xFFFFu) | half(a >> 16, b >> 16, c >> 16) << 16;
}

}  // namespace lorad::cuda
