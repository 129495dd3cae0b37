#include "model/ops/cpu/dot_kernels.h"

#include "model/ops/cpu/bf16_products.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/ops/cpu/dot_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "model/ops/cpu/dot-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

// kColumns x kRows sums, kRows elements of x and one weight fill 16 registers.
inline constexpr int kColumns = 4;
inline constexpr int kRows = 3;

HWY_INLINE void Put(float v, float* y) { *y = v; }
HWY_INLINE void Put(float v, uint16_t* y) {
  *y = static_cast<uint16_t>(hn::GetLane(RoundToBf16(hn::Set(DF(), v))) >> 16);
}

// One tile into y.
template <int C, int R, typename W, typename Y>
HWY_INLINE void DotTile(const DotArgs& a, int64_t r, int64_t c, const W* w, int64_t in, Y* y) {
  float sums[R][C];
  Tile<C, R>(a.x + r * a.x_stride, a.x_stride, w, a.w_stride, in, sums);
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < C; ++j) Put(sums[i][j], y + (r + i) * a.y_stride + c + j);
}

// All rows against C weight rows.
template <int C, typename W, typename Y>
HWY_INLINE void DotColumns(const DotArgs& a, int64_t c, const W* w, int64_t in, Y* y) {
  int64_t r = 0;
  for (; a.rows - r >= kRows && a.rows - r != kRows + 1; r += kRows) DotTile<C, kRows>(a, r, c, w, in, y);
  for (; a.rows - r >= 2; r += 2) DotTile<C, 2>(a, r, c, w, in, y);
  if (r < a.rows) DotTile<C, 1>(a, r, c, w, in, y);
}

template <typename W, typename Y>
void DotT(const DotArgs& a, const W* w, Y* y) {
  int64_t c = 0;
  if (a.rows == 1)
    for (; a.columns - c >= 8; c += 8) DotTile<8, 1>(a, 0, c, w + c * a.w_stride, a.in, y);
  for (; a.columns - c >= kColumns; c += kColumns) DotColumns<kColumns>(a, c, w + c * a.w_stride, a.in, y);
  for (; c < a.columns; ++c) DotColumns<1>(a, c, w + c * a.w_stride, a.in, y);
}

void PackF32(const float* x, int64_t x_stride, int64_t rows, int64_t elements, float* packed, int64_t packed_stride) {
  PackRowsT(x, x_stride, rows, elements, PackedFloats(elements), packed, packed_stride);
}
void PackBf16(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t elements, float* packed,
              int64_t packed_stride) {
  PackRowsT(x, x_stride, rows, elements, PackedFloats(elements), packed, packed_stride);
}
void DotF32(const DotArgs& a, const float* w, float* y) { DotT(a, w, y); }
void DotBf16(const DotArgs& a, const uint16_t* w, float* y) { DotT(a, w, y); }
void DotBf16Rounded(const DotArgs& a, const uint16_t* w, uint16_t* y) { DotT(a, w, y); }

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(PackF32);
HWY_EXPORT(PackBf16);
HWY_EXPORT(DotF32);
HWY_EXPORT(DotBf16);
HWY_EXPORT(DotBf16Rounded);

int64_t PackedFloats(int64_t elements) { return (elements + 31) / 32 * 32; }  // a multiple of 2N on every target
void PackTiles(const float* x, int64_t x_stride, int64_t rows, int64_t elements, int64_t begin_tile, int64_t end_tile,
               float* packed, int64_t packed_stride) {
  const int64_t begin = FirstRowOfTile(rows, begin_tile), end = FirstRowOfTile(rows, end_tile);
  HWY_DYNAMIC_DISPATCH(PackF32)
  (x + begin * x_stride, x_stride, end - begin, elements, packed + begin * packed_stride, packed_stride);
}
void PackTiles(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t elements, int64_t begin_tile,
               int64_t end_tile, float* packed, int64_t packed_stride) {
  if (HasBf16Products()) {
    PackBf16Tiles(x, x_stride, rows, elements, begin_tile, end_tile, reinterpret_cast<uint16_t*>(packed));
    return;
  }
  const int64_t begin = FirstRowOfTile(rows, begin_tile), end = FirstRowOfTile(rows, end_tile);
  HWY_DYNAMIC_DISPATCH(PackBf16)
  (x + begin * x_stride, x_stride, end - begin, elements, packed + begin * packed_stride, packed_stride);
}

bool IsPacked(const float*, int64_t, int64_t elements) { return elements == PackedFloats(elements); }
bool IsPacked(const uint16_t*, int64_t rows, int64_t elements) {
  return rows == 1 && HasBf16Products() && elements == PackedFloats(elements);
}

namespace {
Bf16DotArgs WithProducts(const DotArgs& a, const uint16_t* w) {
  return {reinterpret_cast<const uint16_t*>(a.x), a.rows, w, a.w_stride, a.columns, a.in, a.y_stride};
}
}  // namespace

void Dot(const DotArgs& args, const float* w, float* y) { HWY_DYNAMIC_DISPATCH(DotF32)(args, w, y); }
void Dot(const DotArgs& args, const uint16_t* w, float* y) {
  if (HasBf16Products()) return DotBf16Products(WithProducts(args, w), y);
  HWY_DYNAMIC_DISPATCH(DotBf16)(args, w, y);
}
void Dot(const DotArgs& args, const uint16_t* w, uint16_t* y) {
  if (HasBf16Products()) return DotBf16Products(WithProducts(args, w), y);
  HWY_DYNAMIC_DISPATCH(DotBf16Rounded)(args, w, y);
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
