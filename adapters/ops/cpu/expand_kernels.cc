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

// f32 values in the lanes that Load2 gives elements of T.
HWY_INLINE void LoadLike(const float*, const float* values, VF& v0, VF& v1) { Load2(values, v0, v1); }
HWY_INLINE void LoadLike(const uint16_t*, const float* values, VF& v0, VF& v1) {
  hn::LoadInterleaved2(DF(), values, v0, v1);
}

// y after the update whose sums are given; `c` columns into the terms, of which n count.
template <bool kTerms, typename T>
HWY_INLINE void Update(const ExpandArgs& a, const T* lanes, int64_t c, int64_t n, VF sum0, VF sum1, VF& y0, VF& y1) {
  const DF d;
  const VF scale = hn::Set(d, a.scale);
  if constexpr (!kTerms) {
    y0 = hn::MulAdd(scale, sum0, y0);
    y1 = hn::MulAdd(scale, sum1, y1);
  } else {
    const auto load = [&](const float* values, VF& v0, VF& v1) {
      if (n == kPair) return LoadLike(lanes, values + c, v0, v1);
      HWY_ALIGN float some[kPair] = {};
      std::memcpy(some, values + c, static_cast<size_t>(n) * sizeof(float));
      LoadLike(lanes, some, v0, v1);
    };
    const ExpandColumnTerms& t = a.terms;
    VF v0, v1;
    if (t.delta_bias != nullptr) {
      load(t.delta_bias, v0, v1);
      sum0 = hn::Add(sum0, v0);
      sum1 = hn::Add(sum1, v1);
    }
    y0 = hn::MulAdd(scale, sum0, y0);
    y1 = hn::MulAdd(scale, sum1, y1);
    if (t.factor != nullptr) {
      load(t.factor, v0, v1);
      y0 = hn::Mul(y0, v0);
      y1 = hn::Mul(y1, v1);
    }
    if (t.bias != nullptr) {
      load(t.bias, v0, v1);
      y0 = hn::Add(y0, v0);
      y1 = hn::Add(y1, v1);
    }
  }
}

// R rows by P pairs of vectors, from column c.
template <int R, int P, bool kTerms, typename T>
HWY_INLINE void ExpandTile(const ExpandArgs& a, int64_t c, const float* HWY_RESTRICT h, const T* HWY_RESTRICT b_t,
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
      Load2(b_t + j * a.b_stride + c + p * kPair, b0, b1);
      for (int r = 0; r < R; ++r) {
        acc[r][2 * p] = hn::MulAdd(hj[r], b0, acc[r][2 * p]);
        acc[r][2 * p + 1] = hn::MulAdd(hj[r], b1, acc[r][2 * p + 1]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      T* out = y + r * a.y_stride + c + p * kPair;
      VF y0, y1;
      Load2(out, y0, y1);
      Update<kTerms>(a, out, c + p * kPair, kPair, acc[r][2 * p], acc[r][2 * p + 1], y0, y1);
      Store2(y0, y1, out);
    }
  }
}

// The last n < 2N columns of one row, from column c.
template <bool kTerms, typename T>
HWY_INLINE void ExpandTail(const ExpandArgs& a, int64_t c, const float* h, const T* b_t, T* y, int64_t n) {
  const DF d;
  VF acc0 = hn::Zero(d), acc1 = hn::Zero(d);
  for (int64_t j = 0; j < a.rank; ++j) {
    VF b0, b1;
    Load2Tail(b_t + j * a.b_stride + c, n, b0, b1);
    const VF hj = hn::Set(d, h[j]);
    acc0 = hn::MulAdd(hj, b0, acc0);
    acc1 = hn::MulAdd(hj, b1, acc1);
  }
  VF y0, y1;
  Load2Tail(y + c, n, y0, y1);
  Update<kTerms>(a, y, c, n, acc0, acc1, y0, y1);
  Store2Tail(y0, y1, y + c, n);
}

template <int R, int P, bool kTerms, typename T>
HWY_INLINE int64_t ExpandColumns(const ExpandArgs& a, int64_t r, int64_t c, const T* b_t, T* y) {
  for (; a.columns - c >= P * kPair; c += P * kPair) {
    ExpandTile<R, P, kTerms>(a, c, a.h + r * a.h_stride, b_t, y + r * a.y_stride);
  }
  return c;
}

template <bool kTerms, typename T>
void ExpandRows(const ExpandArgs& a, const T* b_t, T* y) {
  int64_t r = 0;
  for (; a.rows - r >= 3 && a.rows - r != 4; r += 3) {
    ExpandColumns<3, 1, kTerms>(a, r, ExpandColumns<3, 2, kTerms>(a, r, 0, b_t, y), b_t, y);
  }
  for (; a.rows - r >= 2; r += 2) {
    ExpandColumns<2, 1, kTerms>(a, r, ExpandColumns<2, 2, kTerms>(a, r, 0, b_t, y), b_t, y);
  }
  if (r < a.rows) ExpandColumns<1, 1, kTerms>(a, r, ExpandColumns<1, 4, kTerms>(a, r, 0, b_t, y), b_t, y);
  const int64_t tail = a.columns % kPair;
  if (tail == 0) return;
  for (r = 0; r < a.rows; ++r) {
    ExpandTail<kTerms>(a, a.columns - tail, a.h + r * a.h_stride, b_t, y + r * a.y_stride, tail);
  }
}

template <typename T>
void ExpandT(const ExpandArgs& a, const T* b_t, T* y) {
  if (a.terms.any()) {
    ExpandRows<true>(a, b_t, y);
  } else {
    ExpandRows<false>(a, b_t, y);
  }
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
