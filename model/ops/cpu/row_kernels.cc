#include "model/ops/cpu/row_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/ops/cpu/row_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "model/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

// f32 operands beside bf16 ones: the even elements, then the odd ones, as Load2 has those of bf16.
HWY_INLINE void LoadPartBeside(const float*, const float* p, int64_t n, VF& a, VF& b) { LoadPart(p, n, a, b); }
HWY_INLINE void LoadPartBeside(const uint16_t*, const uint16_t* p, int64_t n, VF& a, VF& b) { LoadPart(p, n, a, b); }
HWY_INLINE void LoadPartBeside(const uint16_t*, const float* p, int64_t n, VF& a, VF& b) {
  alignas(64) float buffer[kPair] = {};
  if (n < kPair) std::copy(p, p + n, buffer);
  hn::LoadInterleaved2(DF(), n < kPair ? buffer : p, a, b);
}

template <typename T, typename W>
void RmsNormT(const T* x, const W* weight, int64_t n, float eps, T* y) {
  const W* before_weight = nullptr;  // what is rounded to before the weight: nothing beside a wide one
  const DF d;
  VF sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  for (int64_t i = 0; i < n; i += kPair) {
    VF a, b;
    LoadPart(x + i, n - i, a, b);
    sum0 = hn::MulAdd(a, a, sum0);
    sum1 = hn::MulAdd(b, b, sum1);
  }
  const float mean = SumLanes(hn::Add(sum0, sum1)) / static_cast<float>(n);
  const VF factor = hn::Div(hn::Set(d, 1.0f), hn::Sqrt(hn::Set(d, mean + eps)));
  for (int64_t i = 0; i < n; i += kPair) {
    VF a, b, w0, w1;
    LoadPart(x + i, n - i, a, b);
    LoadPartBeside(x, weight + i, n - i, w0, w1);
    const VF normed0 = RoundTo(before_weight, hn::Mul(a, factor)), normed1 = RoundTo(before_weight, hn::Mul(b, factor));
    StorePart(hn::Mul(w0, normed0), hn::Mul(w1, normed1), y + i, n - i);
  }
}

template <typename T>
void LayerNormT(const T* x, const T* weight, const T* bias, int64_t n, float eps, T* y) {
  const DF d;
  VF sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  for (int64_t i = 0; i < n; i += kPair) {
    VF a, b;
    LoadPart(x + i, n - i, a, b);
    sum0 = hn::Add(a, sum0);
    sum1 = hn::Add(b, sum1);
  }
  const VF mean = hn::Set(d, SumLanes(hn::Add(sum0, sum1)) / static_cast<float>(n));
  VF squares0 = hn::Zero(d), squares1 = hn::Zero(d);
  for (int64_t i = 0; i < n; i += kPair) {
    VF a, b;
    LoadPart(x + i, n - i, a, b);
    a = hn::Sub(a, mean);
    b = hn::Sub(b, mean);
    if (n - i < kPair) ZeroPast(x, n - i, a, b);
    squares0 = hn::MulAdd(a, a, squares0);
    squares1 = hn::MulAdd(b, b, squares1);
  }
  const float variance = SumLanes(hn::Add(squares0, squares1)) / static_cast<float>(n);
  const VF factor = hn::Div(hn::Set(d, 1.0f), hn::Sqrt(hn::Set(d, variance + eps)));
  for (int64_t i = 0; i < n; i += kPair) {
    VF a, b;
    LoadPart(x + i, n - i, a, b);
    VF w0 = hn::Set(d, 1.0f), w1 = w0, b0 = hn::Zero(d), b1 = b0;
    if (weight != nullptr) LoadPart(weight + i, n - i, w0, w1);
    if (bias != nullptr) LoadPart(bias + i, n - i, b0, b1);
    a = hn::MulAdd(hn::Mul(hn::Sub(a, mean), factor), w0, b0);
    b = hn::MulAdd(hn::Mul(hn::Sub(b, mean), factor), w1, b1);
    StorePart(a, b, y + i, n - i);
  }
}

template <typename T>
void AddT(const T* x, int64_t n, T* residual) {
  for (int64_t i = 0; i < n; i += kPair) {
    VF a, b, r0, r1;
    LoadPart(x + i, n - i, a, b);
    LoadPart(residual + i, n - i, r0, r1);
    StorePart(hn::Add(r0, a), hn::Add(r1, b), residual + i, n - i);
  }
}

template <typename T>
void RotateT(const T* x, const T* cos, const T* sin, int64_t half, int64_t n, T* y) {
  for (int64_t i = 0; i < half; i += kPair) {
    const int64_t left = half - i;
    VF a0, a1, b0, b1, c0, c1, s0, s1;
    LoadPart(x + i, left, a0, a1);
    LoadPart(x + half + i, left, b0, b1);
    LoadPart(cos + i, left, c0, c1);
    LoadPart(sin + i, left, s0, s1);
    StorePart(hn::NegMulAdd(b0, s0, hn::Mul(a0, c0)), hn::NegMulAdd(b1, s1, hn::Mul(a1, c1)), y + i, left);
    StorePart(hn::MulAdd(a0, s0, hn::Mul(b0, c0)), hn::MulAdd(a1, s1, hn::Mul(b1, c1)), y + half + i, left);
  }
  if (y != x) std::copy(x + 2 * half, x + n, y + 2 * half);
}

float MaxOfT(const float* x, int64_t n) {
  const DF d;
  VF best = hn::Set(d, -std::numeric_limits<float>::infinity());
  VF nans = hn::Zero(d);  // sticks at NaN
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = hn::LoadU(d, x + i);
    best = hn::Max(best, v);
    nans = hn::Add(nans, hn::IfThenElse(hn::IsNaN(v), v, hn::Zero(d)));
  }
  float max = hn::GetLane(hn::MaxOfLanes(d, best));
  float nan = SumLanes(nans);
  for (; i < n; ++i) {
    if (std::isnan(x[i])) nan = x[i];
    max = std::max(max, x[i]);
  }
  return std::isnan(nan) ? nan : max;
}

double ExpRowT(const float* x, int64_t n, float shift, float factor, float* y) {
  constexpr int64_t kChunk = 1024;  // float sums of so many are as exact as the terms
  const DF d;
  const VF vshift = hn::Set(d, shift), vfactor = hn::Set(d, factor);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = std::min(n, begin + kChunk);
    VF sum = hn::Zero(d);
    for (int64_t i = begin; i < end; i += kLanes) {
      const int64_t left = end - i;
      alignas(64) float buffer[kLanes];
      if (left < kLanes) {
        std::fill(buffer, buffer + kLanes, -std::numeric_limits<float>::infinity());
        std::copy(x + i, x + end, buffer);
      }
      const VF v = left < kLanes ? hn::Load(d, buffer) : hn::LoadU(d, x + i);
      const VF e = hn::Exp(d, hn::Mul(hn::Sub(v, vshift), vfactor));
      sum = hn::Add(sum, e);
      if (y == nullptr) continue;
      if (left < kLanes) {
        hn::Store(e, d, buffer);
        std::copy(buffer, buffer + left, y + i);
      } else {
        hn::StoreU(e, d, y + i);
      }
    }
    total += SumLanes(sum);
  }
  return total;
}

void RmsNormF32(const float* x, const float* w, int64_t n, float eps, float* y) { RmsNormT(x, w, n, eps, y); }
void RmsNormBf16(const uint16_t* x, const uint16_t* w, int64_t n, float eps, uint16_t* y) { RmsNormT(x, w, n, eps, y); }
void RmsNormWide(const uint16_t* x, const float* w, int64_t n, float eps, uint16_t* y) { RmsNormT(x, w, n, eps, y); }
void LayerNormF32(const float* x, const float* w, const float* b, int64_t n, float eps, float* y) {
  LayerNormT(x, w, b, n, eps, y);
}
void LayerNormBf16(const uint16_t* x, const uint16_t* w, const uint16_t* b, int64_t n, float eps, uint16_t* y) {
  LayerNormT(x, w, b, n, eps, y);
}
void AddF32(const float* x, int64_t n, float* residual) { AddT(x, n, residual); }
void AddBf16(const uint16_t* x, int64_t n, uint16_t* residual) { AddT(x, n, residual); }
void RotateF32(const float* x, const float* cos, const float* sin, int64_t half, int64_t n, float* y) {
  RotateT(x, cos, sin, half, n, y);
}
void RotateBf16(const uint16_t* x, const uint16_t* cos, const uint16_t* sin, int64_t half, int64_t n, uint16_t* y) {
  RotateT(x, cos, sin, half, n, y);
}

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(RmsNormF32);
HWY_EXPORT(RmsNormBf16);
HWY_EXPORT(RmsNormWide);
HWY_EXPORT(LayerNormF32);
HWY_EXPORT(LayerNormBf16);
HWY_EXPORT(AddF32);
HWY_EXPORT(AddBf16);
HWY_EXPORT(RotateF32);
HWY_EXPORT(RotateBf16);
HWY_EXPORT(MaxOfT);
HWY_EXPORT(ExpRowT);

void RmsNormRow(const float* x, const float* weight, int64_t n, float eps, float* y) {
  HWY_DYNAMIC_DISPATCH(RmsNormF32)(x, weight, n, eps, y);
}
void RmsNormRow(const uint16_t* x, const uint16_t* weight, int64_t n, float eps, uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(RmsNormBf16)(x, weight, n, eps, y);
}
void RmsNormRow(const uint16_t* x, const float* weight, int64_t n, float eps, uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(RmsNormWide)(x, weight, n, eps, y);
}
void LayerNormRow(const float* x, const float* weight, const float* bias, int64_t n, float eps, float* y) {
  HWY_DYNAMIC_DISPATCH(LayerNormF32)(x, weight, bias, n, eps, y);
}
void LayerNormRow(const uint16_t* x, const uint16_t* weight, const uint16_t* bias, int64_t n, float eps, uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(LayerNormBf16)(x, weight, bias, n, eps, y);
}
void AddRow(const float* x, int64_t n, float* residual) { HWY_DYNAMIC_DISPATCH(AddF32)(x, n, residual); }
void AddRow(const uint16_t* x, int64_t n, uint16_t* residual) { HWY_DYNAMIC_DISPATCH(AddBf16)(x, n, residual); }
void RotateRow(const float* x, const float* cos, const float* sin, int64_t half, int64_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(RotateF32)(x, cos, sin, half, n, y);
}
void RotateRow(const uint16_t* x, const uint16_t* cos, const uint16_t* sin, int64_t half, int64_t n, uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(RotateBf16)(x, cos, sin, half, n, y);
}
float MaxOf(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(MaxOfT)(x, n); }
double ExpRow(const float* x, int64_t n, float shift, float factor, float* y) {
  return HWY_DYNAMIC_DISPATCH(ExpRowT)(x, n, shift, factor, y);
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
