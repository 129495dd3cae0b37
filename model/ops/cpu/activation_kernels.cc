#include "model/ops/cpu/activation_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/ops/cpu/activation_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "model/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

// v / (1 + exp(-w)).
HWY_INLINE VF TimesSigmoid(VF v, VF w) {
  const DF d;
  // hn::Exp is for arguments up to 104; below -88 the result is 0 in f32 all the same. NaN passes.
  const VF limit = hn::Set(d, -88.0f);
  const VF product = hn::Div(v, hn::Add(hn::Set(d, 1.0f), hn::Exp(d, hn::Neg(hn::Max(w, limit)))));
  return hn::IfThenElse(hn::Lt(w, limit), hn::Zero(d), product);
}

struct Silu {
  static HWY_INLINE VF Of(VF v) { return TimesSigmoid(v, v); }
};

// 0.5 v (1 + tanh(sqrt(2 / pi) (v + 0.044715 v^3))), with (1 + tanh(u)) / 2 = sigmoid(2 u).
struct GeluTanh {
  static HWY_INLINE VF Of(VF v) {
    const DF d;
    const VF cubic = hn::MulAdd(hn::Mul(v, v), hn::Set(d, 0.044715f), hn::Set(d, 1.0f));
    return TimesSigmoid(v, hn::Mul(hn::Mul(v, hn::Set(d, 1.5957691216f)), cubic));
  }
};

// v Phi(v), Phi the normal distribution: half of erfc(|v| / sqrt(2)) is Phi(-|v|). Source: Abramowitz and
// Stegun 7.1.26, off by 1.5e-7 at most.
struct Gelu {
  static HWY_INLINE VF Of(VF v) {
    const DF d;
    const VF one = hn::Set(d, 1.0f);
    const VF x = hn::Mul(hn::Abs(v), hn::Set(d, 0.70710678f));
    const VF t = hn::Div(one, hn::MulAdd(x, hn::Set(d, 0.3275911f), one));
    VF poly = hn::MulAdd(t, hn::Set(d, 1.061405429f), hn::Set(d, -1.453152027f));
    poly = hn::MulAdd(poly, t, hn::Set(d, 1.421413741f));
    poly = hn::MulAdd(poly, t, hn::Set(d, -0.284496736f));
    poly = hn::MulAdd(poly, t, hn::Set(d, 0.254829592f));
    const VF exponent = hn::Neg(hn::Min(hn::Mul(x, x), hn::Set(d, 88.0f)));
    const VF below = hn::Mul(hn::Mul(hn::Set(d, 0.5f), hn::Mul(poly, t)), hn::Exp(d, exponent));
    return hn::Mul(v, hn::IfThenElse(hn::Lt(v, hn::Zero(d)), below, hn::Sub(one, below)));
  }
};

struct Relu {
  // Not a maximum: that would swallow a NaN.
  static HWY_INLINE VF Of(VF v) { return hn::IfThenElse(hn::Lt(v, hn::Zero(DF())), hn::Zero(DF()), v); }
};

template <typename A, typename T>
void ActivateT(const T* x, int64_t n, T* y) {
  for (int64_t i = 0; i < n; i += kPair) {
    VF a, b;
    LoadPart(x + i, n - i, a, b);
    StorePart(A::Of(a), A::Of(b), y + i, n - i);
  }
}
template <typename A, typename T>
void ActivateMulT(const T* gate, const T* up, int64_t n, T* y) {
  for (int64_t i = 0; i < n; i += kPair) {
    VF a, b, u0, u1;
    LoadPart(gate + i, n - i, a, b);
    LoadPart(up + i, n - i, u0, u1);
    StorePart(hn::Mul(RoundTo(y, A::Of(a)), u0), hn::Mul(RoundTo(y, A::Of(b)), u1), y + i, n - i);
  }
}

template <typename T>
void ActivateAs(Activation activation, const T* x, int64_t n, T* y) {
  switch (activation) {
    case Activation::kSilu:
      return ActivateT<Silu>(x, n, y);
    case Activation::kGeluTanh:
      return ActivateT<GeluTanh>(x, n, y);
    case Activation::kGelu:
      return ActivateT<Gelu>(x, n, y);
    case Activation::kRelu:
      return ActivateT<Relu>(x, n, y);
  }
}
template <typename T>
void ActivateMulAs(Activation activation, const T* gate, const T* up, int64_t n, T* y) {
  switch (activation) {
    case Activation::kSilu:
      return ActivateMulT<Silu>(gate, up, n, y);
    case Activation::kGeluTanh:
      return ActivateMulT<GeluTanh>(gate, up, n, y);
    case Activation::kGelu:
      return ActivateMulT<Gelu>(gate, up, n, y);
    case Activation::kRelu:
      return ActivateMulT<Relu>(gate, up, n, y);
  }
}

void ActivateF32(Activation activation, const float* x, int64_t n, float* y) { ActivateAs(activation, x, n, y); }
void ActivateBf16(Activation activation, const uint16_t* x, int64_t n, uint16_t* y) { ActivateAs(activation, x, n, y); }
void ActivateMulF32(Activation activation, const float* gate, const float* up, int64_t n, float* y) {
  ActivateMulAs(activation, gate, up, n, y);
}
void ActivateMulBf16(Activation activation, const uint16_t* gate, const uint16_t* up, int64_t n, uint16_t* y) {
  ActivateMulAs(activation, gate, up, n, y);
}

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(ActivateF32);
HWY_EXPORT(ActivateBf16);
HWY_EXPORT(ActivateMulF32);
HWY_EXPORT(ActivateMulBf16);

void ActivateRow(Activation activation, const float* x, int64_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(ActivateF32)(activation, x, n, y);
}
void ActivateRow(Activation activation, const uint16_t* x, int64_t n, uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(ActivateBf16)(activation, x, n, y);
}
void ActivateMulRow(Activation activation, const float* gate, const float* up, int64_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(ActivateMulF32)(activation, gate, up, n, y);
}
void ActivateMulRow(Activation activation, const uint16_t* gate, const uint16_t* up, int64_t n, uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(ActivateMulBf16)(activation, gate, up, n, y);
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
