// Vector pieces shared by the kernels; included once per instruction set (no include guard of the usual kind).
#if defined(LORAD_MODEL_OPS_CPU_VEC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORAD_MODEL_OPS_CPU_VEC_INL_H_
#undef LORAD_MODEL_OPS_CPU_VEC_INL_H_
#else
#define LORAD_MODEL_OPS_CPU_VEC_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DU = hn::RebindToUnsigned<DF>;
using VF = hn::Vec<DF>;
inline constexpr int64_t kLanes = HWY_MAX_BYTES / sizeof(float);  // fixed-size targets only
inline constexpr int64_t kPair = 2 * kLanes;

// Two vectors from 2N consecutive elements. Of bf16 the first gets the even elements and the second the odd ones: one
// instruction each. Kernels treat all their operands so, and sums do not care which lane an element is in.
HWY_INLINE void Load2(const float* p, VF& a, VF& b) {
  const DF d;
  a = hn::LoadU(d, p);
  b = hn::LoadU(d, p + kLanes);
}
HWY_INLINE void Load2(const uint16_t* p, VF& a, VF& b) {
  const DU du;
  const DF df;
  const auto u = hn::LoadU(du, reinterpret_cast<const uint32_t*>(p));
  a = hn::BitCast(df, hn::ShiftLeft<16>(u));
  b = hn::BitCast(df, hn::And(u, hn::Set(du, 0xFFFF0000u)));
}

// One of the two vectors of Load2.
template <int kHalf>
HWY_INLINE VF LoadHalf(const float* p) {
  return hn::LoadU(DF(), p + kHalf * kLanes);
}
template <int kHalf>
HWY_INLINE VF LoadHalf(const uint16_t* p) {
  const DU du;
  const auto u = hn::LoadU(du, reinterpret_cast<const uint32_t*>(p));
  return hn::BitCast(DF(), kHalf == 0 ? hn::ShiftLeft<16>(u) : hn::And(u, hn::Set(du, 0xFFFF0000u)));
}

// The nearest bf16, ties to even, in the upper half of each lane; a NaN stays one.
HWY_INLINE hn::Vec<DU> RoundToBf16(VF v) {
  const DU du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x00400000u));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
}
HWY_INLINE void Store2(VF a, VF b, float* p) {
  const DF d;
  hn::StoreU(a, d, p);
  hn::StoreU(b, d, p + kLanes);
}
HWY_INLINE void Store2(VF a, VF b, uint16_t* p) {
  const DU du;
  const auto low = hn::ShiftRight<16>(RoundToBf16(a));
  const auto high = hn::And(RoundToBf16(b), hn::Set(du, 0xFFFF0000u));
  hn::StoreU(hn::Or(low, high), du, reinterpret_cast<uint32_t*>(p));
}

// The value after a round trip through T.
HWY_INLINE VF RoundTo(const float*, VF v) { return v; }
HWY_INLINE VF RoundTo(const uint16_t*, VF v) {
  const DU du;
  return hn::BitCast(DF(), hn::And(RoundToBf16(v), hn::Set(du, 0xFFFF0000u)));
}

// The first n < 2N elements, zeros behind them.
template <typename T>
HWY_INLINE void Load2Tail(const T* p, int64_t n, VF& a, VF& b) {
  alignas(64) T buffer[kPair] = {};
  std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof(T));
  Load2(buffer, a, b);
}
template <typename T>
HWY_INLINE void Store2Tail(VF a, VF b, T* p, int64_t n) {
  alignas(64) T buffer[kPair];
  Store2(a, b, buffer);
  std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
}

// The operands of one step: whole pairs of vectors, or a tail with zeros behind it.
template <typename T>
HWY_INLINE void LoadPart(const T* p, int64_t n, VF& a, VF& b) {
  if (n >= kPair) {
    Load2(p, a, b);
  } else {
    Load2Tail(p, n, a, b);
  }
}
template <typename T>
HWY_INLINE void StorePart(VF a, VF b, T* p, int64_t n) {
  if (n >= kPair) {
    Store2(a, b, p);
  } else {
    Store2Tail(a, b, p, n);
  }
}

// Zeros in the lanes of a and b that LoadPart(p, n < 2N, a, b) did not load; T says in which order they are.
template <typename T>
HWY_INLINE void ZeroPast(const T*, int64_t n, VF& a, VF& b) {
  static constexpr T kOne = sizeof(T) == sizeof(float) ? static_cast<T>(1) : static_cast<T>(0x3F80);
  T ones[kPair];
  std::fill(ones, ones + kPair, kOne);
  VF a_kept, b_kept;
  Load2Tail(ones, n, a_kept, b_kept);
  a = hn::IfThenZeroElse(hn::Eq(a_kept, hn::Zero(DF())), a);
  b = hn::IfThenZeroElse(hn::Eq(b_kept, hn::Zero(DF())), b);
}

HWY_INLINE float SumLanes(VF v) { return hn::GetLane(hn::SumOfLanes(DF(), v)); }

// Adds the 128-bit blocks of v up.
template <class D>
HWY_INLINE hn::Vec<hn::Full128<float>> FoldBlocks(D d, hn::Vec<D> v) {
  if constexpr (sizeof(v) > 16) {
    const hn::Half<D> half;
    return FoldBlocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  } else {
    return v;
  }
}

// {sum of a, of b, of c, of d}: a transposition shared by the four sums.
HWY_INLINE hn::Vec<hn::Full128<float>> Sum4(VF a, VF b, VF c, VF d) {
  const DF df;
  const hn::RepartitionToWide<DF> dw;
  const auto ab = hn::Add(hn::InterleaveLower(df, a, b), hn::InterleaveUpper(df, a, b));
  const auto cd = hn::Add(hn::InterleaveLower(df, c, d), hn::InterleaveUpper(df, c, d));
  const auto wab = hn::BitCast(dw, ab);
  const auto wcd = hn::BitCast(dw, cd);
  const auto low = hn::BitCast(df, hn::InterleaveLower(dw, wab, wcd));
  const auto high = hn::BitCast(df, hn::InterleaveUpper(dw, wab, wcd));
  return FoldBlocks(df, hn::Add(low, high));
}

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#endif  // LORAD_MODEL_OPS_CPU_VEC_INL_H_
