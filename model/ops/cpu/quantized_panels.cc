#include "model/ops/cpu/quantized_panels.h"

#include <algorithm>
#include <vector>

#include "model/ops/cpu/bf16.h"
#include "model/ops/cpu/bf16_products.h"
#include "model/ops/cpu/bf16_quantized_panels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/ops/cpu/quantized_panels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "model/ops/cpu/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

inline constexpr int kGroupRows = kLanes >= 16 ? 8 : kLanes == 8 ? 4 : 2;  // whose sums of a group stay in registers

using DI = hn::RebindToSigned<DF>;

// acc[r][v] += the two elements of a word of row r times those of the columns in vector v.
template <int R>
HWY_INLINE void AddElements(const float* x, int64_t x_stride, int64_t word, int v, VF w0, VF w1,
                            VF (&acc)[R][kPanelVectors]) {
  const DF d;
  for (int r = 0; r < R; ++r) {
    const float* const elements = x + r * x_stride + 2 * word;
    acc[r][v] = hn::MulAdd(hn::Set(d, elements[0]), w0, acc[r][v]);
    acc[r][v] = hn::MulAdd(hn::Set(d, elements[1]), w1, acc[r][v]);
  }
}

// Bytes of which each vector of words has the two elements of its columns.
template <class Bytes>
struct ByteWords {
  template <int R>
  static HWY_INLINE void AddQuad(const float* x, int64_t x_stride, int64_t quad, const std::byte* bytes,
                                 VF (&acc)[R][kPanelVectors]) {
    const auto* const words = reinterpret_cast<const int16_t*>(bytes);
    for (int64_t j = 0; j < kQuadWords; ++j) {
      for (int v = 0; v < kPanelVectors; ++v) {
        VF w0, w1;
        Bytes::Load2(words + j * kPanelLanes + v * kLanes, w0, w1);
        AddElements<R>(x, x_stride, quad * kQuadWords + j, v, w0, w1, acc);
      }
    }
  }
  static HWY_INLINE VF ScalesOf(const std::byte* factors, int v) {
    return hn::LoadU(DF(), reinterpret_cast<const float*>(factors) + v * kLanes);
  }
};

struct Int8 : ByteWords<Int8> {
  static constexpr Quantization kQuantization = Quantization::kInt8;

  static HWY_INLINE void Load2(const int16_t* words, VF& w0, VF& w1) {
    const DF d;
    const DI di;
    const hn::Rebind<int16_t, DI> pairs;
    const auto both = hn::PromoteTo(di, hn::LoadU(pairs, words));
    w0 = hn::ConvertTo(d, hn::ShiftRight<24>(hn::ShiftLeft<24>(both)));
    w1 = hn::ConvertTo(d, hn::ShiftRight<8>(both));
  }
  static HWY_INLINE VF Scale(const std::byte* factors, int v) { return ScalesOf(factors, v); }
};

// e4m3 moved to the place of an f16 is one of 2^-8 of the value, denormal or not, which processors widen themselves.
struct Fp8 : ByteWords<Fp8> {
  static constexpr Quantization kQuantization = Quantization::kFp8;
  static constexpr float kLeftOut = 256.0f;
  using Pairs = hn::Rebind<int16_t, DF>;

  static HWY_INLINE VF WidenUpper(hn::Vec<Pairs> pairs) {
    const auto moved = hn::And(hn::ShiftRight<1>(pairs), hn::Set(Pairs(), static_cast<int16_t>(0xBF80)));
    return hn::PromoteTo(DF(), hn::BitCast(hn::Rebind<hwy::float16_t, DF>(), moved));
  }
  static HWY_INLINE void Load2(const int16_t* words, VF& w0, VF& w1) {
    const auto both = hn::LoadU(Pairs(), words);
    w0 = WidenUpper(hn::ShiftLeft<8>(both));
    w1 = WidenUpper(both);
  }
  static HWY_INLINE VF Scale(const std::byte* factors, int v) {
    return hn::Mul(ScalesOf(factors, v), hn::Set(DF(), kLeftOut));
  }
};

struct Int4 {
  static constexpr Quantization kQuantization = Quantization::kInt4;

  template <int R, int kWord>
  static HWY_INLINE void AddWordOfQuad(const float* x, int64_t x_stride, int64_t quad, const uint32_t* words,
                                       VF (&acc)[R][kPanelVectors]) {
    const DF d;
    const DU du;
    const DI di;
    const auto nibble = hn::Set(du, 15u);
    const auto middle = hn::Set(di, 8);
    for (int v = 0; v < kPanelVectors; ++v) {
      const auto quads = hn::LoadU(du, words + v * kLanes);
      const auto q0 = hn::And(hn::ShiftRight<4 * kWord>(quads), nibble);
      const auto q1 = hn::And(hn::ShiftRight<16 + 4 * kWord>(quads), nibble);
      const VF w0 = hn::ConvertTo(d, hn::Sub(hn::BitCast(di, q0), middle));
      const VF w1 = hn::ConvertTo(d, hn::Sub(hn::BitCast(di, q1), middle));
      AddElements<R>(x, x_stride, quad * kQuadWords + kWord, v, w0, w1, acc);
    }
  }
  template <int R>
  static HWY_INLINE void AddQuad(const float* x, int64_t x_stride, int64_t quad, const std::byte* bytes,
                                 VF (&acc)[R][kPanelVectors]) {
    const auto* const words = reinterpret_cast<const uint32_t*>(bytes);
    AddWordOfQuad<R, 0>(x, x_stride, quad, words, acc);
    AddWordOfQuad<R, 1>(x, x_stride, quad, words, acc);
    AddWordOfQuad<R, 2>(x, x_stride, quad, words, acc);
    AddWordOfQuad<R, 3>(x, x_stride, quad, words, acc);
  }
  static HWY_INLINE VF Scale(const std::byte* factors, int v) {
    return LoadHalf<0>(reinterpret_cast<const uint16_t*>(factors) + 2 * v * kLanes);
  }
  static HWY_INLINE VF Zero(const std::byte* factors, int v) {
    return LoadHalf<1>(reinterpret_cast<const uint16_t*>(factors) + 2 * v * kLanes);
  }
};

HWY_INLINE void StoreColumns(const VF (&sums)[kPanelVectors], int64_t columns, float* y) {
  alignas(64) float all[kPanelColumns];
  for (int v = 0; v < kPanelVectors; ++v) hn::StoreU(sums[v], DF(), all + v * kLanes);
  std::copy_n(all, columns, y);
}
HWY_INLINE void StoreColumns(const VF (&sums)[kPanelVectors], int64_t columns, uint16_t* y) {
  alignas(64) uint32_t rounded[kPanelColumns];  // the bf16 in the upper half
  for (int v = 0; v < kPanelVectors; ++v) hn::StoreU(RoundToBf16(sums[v]), DU(), rounded + v * kLanes);
  for (int64_t c = 0; c < columns; ++c) y[c] = static_cast<uint16_t>(rounded[c] >> 16);
}

// R rows against one panel, of which y has `columns`.
template <class Weights, int R, typename Y>
HWY_INLINE void QuantizedTile(const QuantizedDotArgs& a, int64_t r, const std::byte* panel, int64_t columns, Y* y) {
  constexpr Quantization kQuantization = Weights::kQuantization;
  const DF d;
  const int64_t stride = QuantizedRowFloats(a.in), groups = QuantizedGroups(a.in);
  const float* const x = a.x + r * stride;
  const float* const x_sums = x + QuantizedRowElements(a.in);
  VF total[R][kPanelVectors];
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < kPanelVectors; ++v) total[i][v] = hn::Zero(d);
  const std::byte* factors = panel;
  const std::byte* words = panel + kFactorBytes;
  for (int64_t g = 0; g < groups; ++g, words += BlockBytes(kQuantization), factors += FactorStride(kQuantization)) {
    VF acc[R][kPanelVectors];
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < kPanelVectors; ++v) acc[i][v] = hn::Zero(d);
    for (int64_t quad = 0; quad < kGroupWords / kQuadWords; ++quad) {
      Weights::template AddQuad<R>(x + g * kQuantizedGroup, stride, quad, words + quad * QuadBytes(kQuantization), acc);
    }
    for (int v = 0; v < kPanelVectors; ++v) {
      const VF scale = Weights::Scale(factors, v);
      for (int i = 0; i < R; ++i) total[i][v] = hn::MulAdd(acc[i][v], scale, total[i][v]);
      if constexpr (kQuantization == Quantization::kInt4) {
        const VF zero = Weights::Zero(factors, v);
        for (int i = 0; i < R; ++i) total[i][v] = hn::MulAdd(hn::Set(d, x_sums[i * stride + g]), zero, total[i][v]);
      }
    }
  }
  for (int i = 0; i < R; ++i) StoreColumns(total[i], columns, y + (r + i) * a.y_stride);
}

template <class Weights, typename Y>
void QuantizedDotOf(const QuantizedDotArgs& a, Y* y) {
  for (int64_t c = 0; c < a.columns; c += kPanelColumns) {
    const std::byte* const panel = a.panels + c / kPanelColumns * QuantizedPanelBytes(Weights::kQuantization, a.in);
    const int64_t columns = std::min(kPanelColumns, a.columns - c);
    int64_t r = 0;
    for (; r + kGroupRows <= a.rows; r += kGroupRows) QuantizedTile<Weights, kGroupRows>(a, r, panel, columns, y + c);
    for (; r < a.rows; ++r) QuantizedTile<Weights, 1>(a, r, panel, columns, y + c);
  }
}

template <typename Y>
HWY_INLINE void QuantizedDotT(const QuantizedDotArgs& a, Y* y) {
  if (a.quantization == Quantization::kInt8) return QuantizedDotOf<Int8>(a, y);
  if (a.quantization == Quantization::kFp8) return QuantizedDotOf<Fp8>(a, y);
  QuantizedDotOf<Int4>(a, y);
}
void QuantizedDotF32(const QuantizedDotArgs& a, float* y) { QuantizedDotT(a, y); }
void QuantizedDotBf16(const QuantizedDotArgs& a, uint16_t* y) { QuantizedDotT(a, y); }

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {
namespace {

HWY_EXPORT(QuantizedDotF32);
HWY_EXPORT(QuantizedDotBf16);

// In one order whatever the processor: 16 sums, added up in pairs.
void SumGroups(const float* elements, int64_t groups, float* sums) {
  for (int64_t g = 0; g < groups; ++g, elements += kQuantizedGroup) {
    float lanes[16] = {};
    for (int64_t k = 0; k < kQuantizedGroup; ++k) lanes[k % 16] += elements[k];
    for (int width = 8; width > 0; width /= 2)
      for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    sums[g] = lanes[0];
  }
}

template <typename T>
void PackRows(const T* x, int64_t x_stride, int64_t rows, int64_t in, float* packed) {
  const int64_t elements = QuantizedRowElements(in);
  const bool keeps_bf16 = sizeof(T) == sizeof(uint16_t) && HasBf16Products();
  std::vector<float> wide(static_cast<size_t>(keeps_bf16 ? elements : 0));
  for (int64_t r = 0; r < rows; ++r, x += x_stride, packed += QuantizedRowFloats(in)) {
    float* const f32 = keeps_bf16 ? wide.data() : packed;
    for (int64_t k = 0; k < in; ++k) f32[k] = Widen(x[k]);
    std::fill(f32 + in, f32 + elements, 0.0f);
    SumGroups(f32, QuantizedGroups(in), packed + elements);
    if (!keeps_bf16) continue;
    T* const row = reinterpret_cast<T*>(packed);
    std::copy_n(x, in, row);
    std::fill(row + in, row + elements, T{0});
  }
}

}  // namespace

// A cache line more than the row takes: rows of 4 KiB would share a set of the cache.
int64_t QuantizedRowFloats(int64_t in) {
  const int64_t sums = (QuantizedGroups(in) + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
  return QuantizedRowElements(in) + sums + kPanelColumns;
}

void PackQuantizedRows(const float* x, int64_t x_stride, int64_t rows, int64_t in, float* packed) {
  PackRows(x, x_stride, rows, in, packed);
}
void PackQuantizedRows(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t in, float* packed) {
  PackRows(x, x_stride, rows, in, packed);
}

void QuantizedDot(const QuantizedDotArgs& args, float* y) { HWY_DYNAMIC_DISPATCH(QuantizedDotF32)(args, y); }
void QuantizedDot(const QuantizedDotArgs& args, uint16_t* y) {
  if (HasBf16Products()) return QuantizedDotBf16Products(args, y);
  HWY_DYNAMIC_DISPATCH(QuantizedDotBf16)(args, y);
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
