// The tile of sums that all products of rows with row-major weights are made of; included once per instruction set.
#if defined(LORAD_MODEL_OPS_CPU_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORAD_MODEL_OPS_CPU_DOT_INL_H_
#undef LORAD_MODEL_OPS_CPU_DOT_INL_H_
#else
#define LORAD_MODEL_OPS_CPU_DOT_INL_H_
#endif

#include <algorithm>

#include "model/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

// Rows as f32 in the order of Load2, zeros behind them up to `padded`, a multiple of 2N.
template <typename T>
void PackRowsT(const T* x, int64_t x_stride, int64_t rows, int64_t elements, int64_t padded, float* packed,
               int64_t packed_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* in = x + r * x_stride;
    float* out = packed + r * packed_stride;
    int64_t k = 0;
    VF a, b;
    for (; k + kPair <= elements; k += kPair) {
      Load2(in + k, a, b);
      Store2(a, b, out + k);
    }
    if (k < elements) {
      Load2Tail(in + k, elements - k, a, b);
      Store2(a, b, out + k);
      k += kPair;
    }
    std::fill(out + k, out + padded, 0.0f);
  }
}

// One step of all sums with one half of a pair; both halves at once would not leave registers for the sums.
template <int kHalf, int C, int R, typename W>
HWY_INLINE void TileStep(const float* HWY_RESTRICT x, int64_t x_stride, const W* HWY_RESTRICT w, int64_t w_stride,
                         VF (&acc)[R][C]) {
  VF xs[R];
  for (int r = 0; r < R; ++r) xs[r] = LoadHalf<kHalf>(x + r * x_stride);
  for (int c = 0; c < C; ++c) {
    const VF wc = LoadHalf<kHalf>(w + c * w_stride);
    for (int r = 0; r < R; ++r) acc[r][c] = hn::MulAdd(wc, xs[r], acc[r][c]);
  }
}

// sums[r][c] of R packed rows and C weight rows; the order of each sum is that of the packed elements.
template <int C, int R, typename W>
HWY_INLINE void Tile(const float* HWY_RESTRICT x, int64_t x_stride, const W* HWY_RESTRICT w, int64_t w_stride,
                     int64_t in, float (&sums)[R][C]) {
  const DF d;
  VF acc[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c] = hn::Zero(d);
  int64_t k = 0;
  for (; k + kPair <= in; k += kPair) {
    TileStep<0>(x + k, x_stride, w + k, w_stride, acc);
    TileStep<1>(x + k, x_stride, w + k, w_stride, acc);
  }
  if (k < in) {
    for (int c = 0; c < C; ++c) {
      VF w0, w1;
      Load2Tail(w + c * w_stride + k, in - k, w0, w1);
      for (int r = 0; r < R; ++r) {
        VF x0, x1;
        Load2(x + r * x_stride + k, x0, x1);
        acc[r][c] = hn::MulAdd(w1, x1, hn::MulAdd(w0, x0, acc[r][c]));
      }
    }
  }
  const hn::Full128<float> d4;
  for (int r = 0; r < R; ++r) {
    if constexpr (C % 4 == 0) {
      for (int c = 0; c < C; c += 4) {
        hn::StoreU(Sum4(acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3]), d4, &sums[r][c]);
      }
    } else {
      static_assert(C == 1);
      sums[r][0] = hn::GetLane(Sum4(acc[r][0], hn::Zero(d), hn::Zero(d), hn::Zero(d)));
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#endif  // LORAD_MODEL_OPS_CPU_DOT_INL_H_
