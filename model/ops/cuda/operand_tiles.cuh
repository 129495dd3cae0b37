#pragma once

#include <tensor_cores.cuh>

#include "model/ops/cuda/device_code.cuh"

// Matrices in shared memory as tensor cores take them, in words of two bf16 elements that are summed over one after the
// other (k, k + 1), the first in the lower half. Words are padded so that what a warp reads at once lies in different
// banks. Plain 32-bit loads; no ldmatrix, so that the block emulator runs all of the indexing.
namespace lorad::cuda {

inline constexpr int kMmaRows = 16, kMmaColumns = 8, kMmaDepth = 16;

// Two elements, rounded; and each of them again.
__device__ inline unsigned PairOf(float first, float second) {
  return __float_as_uint(Rounded<Bf16>(first)) >> 16 | __float_as_uint(Rounded<Bf16>(second));
}
__device__ inline float FirstOf(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ inline float SecondOf(unsigned pair) { return __uint_as_float(pair & 0xFFFF0000u); }

// Eight consecutive elements, in pairs. Loads put 0 where there are no more than `left`, stores leave those alone; both
// are one access where all eight are there and aligned.
using EightBits = PairBits<kEight>;
__device__ inline EightBits LoadEightBits(const Bf16* from, int64_t left) {
  if (left >= kEight && IsAligned(from)) return *reinterpret_cast<const EightBits*>(from);
  EightBits bits;
  for (int i = 0; i < kEight; i += 2) {
    bits.pairs[i / 2] = PairOf(i < left ? Widen(from[i]) : 0.0f, i + 1 < left ? Widen(from[i + 1]) : 0.0f);
  }
  return bits;
}
__device__ inline void StoreEightBits(const EightBits& bits, int64_t left, Bf16* to) {
  if (left >= kEight && IsAligned(to)) {
    *reinterpret_cast<EightBits*>(to) = bits;
    return;
  }
  for (int i = 0; i < kEight; i += 2) {
    if (i < left) Put(FirstOf(bits.pairs[i / 2]), to + i);
    if (i + 1 < left) Put(SecondOf(bits.pairs[i / 2]), to + i + 1);
  }
}

// Rows whose elements are summed over: word (row, k / 2). Either operand: of b a row is a column of the product.
template <int kRows, int kElements>
struct RowsOperand {
  static constexpr int kStride = kElements / 2 + 4;

  // Elements k … k + 7, k a multiple of eight.
  __device__ void PutEight(int row, int k, const EightBits& eight) {
    const unsigned(&pairs)[4] = eight.pairs;
    words.PutFour(row * kStride + k / 2, {pairs[0], pairs[1], pairs[2], pairs[3]});
  }
  __device__ void PutPair(int row, int k, unsigned pair) { words[row * kStride + k / 2] = pair; }
  // Rows row … row + 15.
  __device__ void LoadA(int row, int k, unsigned (&a)[4]) {
    const int at = Place(row, k);
    a[0] = words[at], a[1] = words[at + 8 * kStride];
    a[2] = words[at + 4], a[3] = words[at + 8 * kStride + 4];
  }
  // Rows row … row + 7.
  __device__ void LoadB(int row, int k, unsigned (&b)[2]) {
    const int at = Place(row, k);
    b[0] = words[at], b[1] = words[at + 4];
  }
  __device__ static int Place(int row, int k) { return (row + Lane() / 4) * kStride + k / 2 + Lane() % 4; }

  SharedArray<unsigned, kRows * kStride> words;
};

// Columns of a product, whose rows [k] are where they come from: word (k / 2, column), two rows interleaved.
//
// A product's lane holds two columns of eight. Columns are dealt out so that over kColumnsOfLane / 2 products side by
// side it holds neighbours, which are then read and written together: column c of kColumnsOfLane * 4 is the lane's
// c / kColumnsOfLane, and there the (c % kColumnsOfLane / 2)-th product's.
inline constexpr int kColumnsOfLane = 16, kColumnsOfWarp = 4 * kColumnsOfLane;
template <int kElements, int kColumns>
struct ColumnsOperand {
  static constexpr int kStride = kColumns + 8;

  // Columns c … c + 7 of rows k and k + 1; both multiples.
  __device__ void PutEight(int k, int c, const EightBits& even, const EightBits& odd) {
    const int lane = c % kColumnsOfWarp / kColumnsOfLane, first_product = c % kColumnsOfLane / 2;
    const int at = k / 2 * kStride + c / kColumnsOfWarp * kColumnsOfWarp + first_product * kMmaColumns + 2 * lane;
    for (int i = 0; i < 4; ++i) {
      words[at + i * kMmaColumns] = (even.pairs[i] & 0xFFFFu) | odd.pairs[i] << 16;
      words[at + i * kMmaColumns + 1] = even.pairs[i] >> 16 | (odd.pairs[i] & 0xFFFF0000u);
    }
  }
  // The product-th of the warp's columns from `first` on, a multiple of kColumnsOfWarp.
  __device__ void LoadB(int first, int product, int k, unsigned (&b)[2]) {
    const int at = (k / 2 + Lane() % 4) * kStride + first + product * kMmaColumns + Lane() / 4;
    b[0] = words[at], b[1] = words[at + 4 * kStride];
  }

  SharedArray<unsigned, kElements / 2 * kStride> words;
};

}  // namespace lorad::cuda
