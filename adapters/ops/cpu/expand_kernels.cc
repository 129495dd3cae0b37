#include "adapters/ops/cpu/expand_kernels.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "adapters/ops/cpu/expand_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "model/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

// R rows by P pairs of vectors.
template <int R, int P, typename T>
HWY_INLINE void ExpandTile(const ExpandArgs& a, const float* HWY_RESTRICT h, const T* HWY_RESTRICT b_t,
                           T* HWY_RESTRICT y) {
  const DF d;
  VF acc[R][2 * P];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2 * P; ++v) acc[r][v] = hn::Zero(d);
  for (int64_t j = 0; j < a.rank; ++j) {
    VF hj[R];
    for (int r = 0; r < R; ++r) hj[r] = hn::Set(d, h[r * a.h_stride + j]);
    for (int p = 0; p < P; ++p) {
      VF b0, b1;
      Load2(b_t + j * a.b_stride + p * kPair, b0, b1);
      for (int r = 0; r < R; ++r) {
        acc[r][2 * p] = hn::MulAdd(hj[r], b0, acc[r][2 * p]);
        acc[r][2 * p + 1] = hn::MulAdd(hj[r], b1, acc[r][2 * p + 1]);
      }
    }
  }
  const VF scale = hn::Set(d, a.scale);
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      T* out = y + r * a.y_stride + p * kPair;
      VF y0, y1;
      Load2(out, y0, y1);
      Store2(hn::MulAdd(scale, acc[r][2 * p], y0), hn::MulAdd(scale, acc[r][2 * p + 1], y1), out);
    }
  }
}

// The last n < 2N columns of one row.
template <typename T>
HWY_INLINE void ExpandTail(const ExpandArgs& a, const float* h, const T* b_t, T* y, int64_t n) {
  const DF d;
  VF acc0 = hn::Zero(d), acc1 = hn::Zero(d);
  for (int64_t j = 0; j < a.rank; ++j) {
    VF b0, b1;
    Load2Tail(b_t + j * a.b_stride, n, b0, b1);
    const VF hj = hn::Set(d, h[j]);
    acc0 = hn::MulAdd(hj, b0, acc0);
    acc1 = hn::MulAdd(hj, b1, acc1);
  }
  const VF scale = hn::Set(d, a.scale);
  VF y0, y1;
  Load2Tail(y, n, y0, y1);
  Store2Tail(hn::MulAdd(scale, acc0, y0), hn::MulAdd(scale, acc1, y1), y, n);
}

template <int R, int P, typename T>
HWY_INLINE int64_t ExpandColumns(const ExpandArgs& a, int64_t r, int64_t c, const T* b_t, T* y) {
  for (; a.columns - c >= P * kPair; c += P * kPair) {
    ExpandTile<R, P>(a, a.h + r * a.h_stride, b_t + c, y + r * a.y_stride + c);
  }
  return c;
}

template <typename T>
void ExpandT(const ExpandArgs& a, const T* b_t, T* y) {
  int64_t r = 0;
  for (; a.rows - r >= 3 && a.rows - r != 4; r += 3) {
    ExpandColumns<3, 1>(a, r, ExpandColumns<3, 2>(a, r, 0, b_t, y), b_t, y);
  }
  for (; a.rows - r >= 2; r += 2) ExpandColumns<2, 1>(a, r, ExpandColumns<2, 2>(a, r, 0, b_t, y), b_t, y);
  if (r < a.rows) ExpandColumns<1, 1>(a, r, ExpandColumns<1, 4>(a, r, 0, b_t, y), b_t, y);
  const int64_t tail = a.columns % kPair, c = a.columns - tail;
  if (tail == 0) return;
  for (r = 0; r < a.rows; ++r) ExpandTail(a, a.h + r * a.h_stride, b_t + c, y + r * a.y_stride + c, tail);
}

void ExpandF32(const ExpandArgs& a, const float* b_t, float* y) { ExpandT(a, b_t, y); }
void ExpandBf16(const ExpandArgs& a, const uint16_t* b_t, uint16_t* y) { ExpandT(a, b_t, y); }

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(ExpandF32);
HWY_EXPORT(ExpandBf16);

void Expand(const ExpandArgs& args, const float* b_t, float* y) { HWY_DYNAMIC_DISPATCH(ExpandF32)(args, b_t, y); }
void Expand(const ExpandArgs& args, const uint16_t* b_t, uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(ExpandBf16)(args, b_t, y);
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
