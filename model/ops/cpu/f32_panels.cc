#include "model/ops/cpu/f32_panels.h"

#include <algorithm>
#include <cstring>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/ops/cpu/f32_panels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "model/ops/cpu/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kStepsAhead = 64;         // how far weights are fetched before they are read
inline constexpr int64_t kFetchedPanelsAhead = 4;  // the same, where panels are transposed

// Rows of a tile of 1, 2 or 4 panels: as many as leave registers for the sums, the weights and an element.
inline constexpr int kRowsOfOne = kLanes >= 16 ? 12 : kLanes == 8 ? 6 : 2;
inline constexpr int kRowsOfTwo = kLanes >= 16 ? 12 : kLanes == 8 ? 2 : 1;
inline constexpr int kRowsOfFour = kLanes >= 16 ? 6 : 1;

// The first row's products; `columns` of the last panel, kPanelColumns or fewer.
struct TileArgs {
  const float* x;
  int64_t x_stride;
  int64_t depth;
  const float* w;
  int64_t panel_stride;
  int64_t columns;
  bool add;
  int64_t y_stride;
  float* y;
};

template <int P>
HWY_INLINE void PutSums(const VF (&sums)[P * kPanelVectors], const TileArgs& a, float* y) {
  const DF d;
  if (a.columns == kPanelColumns) {
    for (int v = 0; v < P * kPanelVectors; ++v) {
      hn::StoreU(a.add ? hn::Add(hn::LoadU(d, y + v * kLanes), sums[v]) : sums[v], d, y + v * kLanes);
    }
    return;
  }
  alignas(64) float all[P * kPanelColumns];
  for (int v = 0; v < P * kPanelVectors; ++v) hn::StoreU(sums[v], d, all + v * kLanes);
  for (int64_t c = 0; c < (P - 1) * kPanelColumns + a.columns; ++c) y[c] = a.add ? y[c] + all[c] : all[c];
}

// R rows by P panels.
template <int R, int P>
void ProductTile(const TileArgs& a) {
  const DF d;
  constexpr int kVectors = P * kPanelVectors;
  VF sums[R][kVectors];
#pragma GCC unroll 12  // more than the compiler would unroll, and then the sums were in memory
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
  const float* x = a.x;
  const float* w = a.w;
  for (int64_t k = 0; k < a.depth; ++k, ++x, w += kPanelColumns) {
    VF columns[kVectors];
    for (int p = 0; p < P; ++p) {
      const float* const panel = w + p * a.panel_stride;
      for (int v = 0; v < kPanelVectors; ++v) columns[p * kPanelVectors + v] = hn::LoadU(d, panel + v * kLanes);
      __builtin_prefetch(panel + kStepsAhead * kPanelColumns);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const VF element = hn::Set(d, x[r * a.x_stride]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(element, columns[v], sums[r][v]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) PutSums<P>(sums[r], a, a.y + r * a.y_stride);
}

template <int P, int... R>
void RunTile(int64_t rows, const TileArgs& a, std::integer_sequence<int, R...>) {
  static constexpr void (*kTiles[])(const TileArgs&) = {&ProductTile<R + 1, P>...};
  kTiles[rows - 1](a);
}

HWY_INLINE void TileOf(int64_t rows, int64_t panels, const TileArgs& a) {
  switch (panels) {
    case 4:
      return RunTile<4>(rows, a, std::make_integer_sequence<int, kRowsOfFour>());
    case 2:
      return RunTile<2>(rows, a, std::make_integer_sequence<int, kRowsOfTwo>());
    default:
      return RunTile<1>(rows, a, std::make_integer_sequence<int, kRowsOfOne>());
  }
}

void AllProducts(const F32ProductArgs& a, float* y) {
  const int64_t all_rows = a.x.rows, all_columns = a.w.columns, panel_stride = F32PanelElements(a.w.depth);
  const int64_t most = kLanes >= 8 && all_rows <= kRowsOfFour               ? 4
                       : kRowsOfTwo >= kRowsOfOne || all_rows <= kRowsOfTwo ? 2
                                                                            : 1;
  for (int64_t c = 0, together = most; c < all_columns; c += together * kPanelColumns) {
    while ((together - 1) * kPanelColumns >= all_columns - c) together /= 2;
    const int64_t tile_rows = together == 4 ? kRowsOfFour : together == 2 ? kRowsOfTwo : kRowsOfOne;
    const int64_t tiles = (all_rows + tile_rows - 1) / tile_rows;
    const float* const w = a.w.panels + c / kPanelColumns * panel_stride;
    const int64_t columns = std::min(kPanelColumns, all_columns - c - (together - 1) * kPanelColumns);
    for (int64_t k = 0; k == 0 || k < a.depth; k += kF32Block) {
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t r = all_rows * t / tiles, rows = all_rows * (t + 1) / tiles - r;
        TileOf(rows, together,
               {.x = a.x.first + r * a.x.stride + k,
                .x_stride = a.x.stride,
                .depth = std::min(kF32Block, a.depth - k),
                .w = w + k * kPanelColumns,
                .panel_stride = panel_stride,
                .columns = columns,
                .add = a.add || k > 0,
                .y_stride = a.y_stride,
                .y = y + r * a.y_stride + c});
      }
    }
  }
}

// 4 by 4.
HWY_INLINE void TransposeFour(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  using D = hn::Full128<float>;
  const D d;
  const hn::RepartitionToWide<D> pairs;
  const auto a = hn::LoadU(d, from), b = hn::LoadU(d, from + from_stride);
  const auto c = hn::LoadU(d, from + 2 * from_stride), e = hn::LoadU(d, from + 3 * from_stride);
  const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(d, a, b));
  const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
  const auto ce_low = hn::BitCast(pairs, hn::InterleaveLower(d, c, e));
  const auto ce_high = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_low, ce_low)), d, to);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_low, ce_low)), d, to + to_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_high, ce_high)), d, to + 2 * to_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_high, ce_high)), d, to + 3 * to_stride);
}

void TransposeAll(const TransposeFloatsArgs& a, float* to) {
  int64_t r = 0;
  for (; r + 4 <= a.rows; r += 4) {
    const float* const from = a.from + r * a.from_stride;
    int64_t c = 0;
    for (; c + 4 <= a.columns; c += 4) {
      TransposeFour(from + c, a.from_stride, to + c * a.to_stride + r, a.to_stride);
    }
    for (; c < a.columns; ++c) {
      for (int64_t i = 0; i < 4; ++i) to[c * a.to_stride + r + i] = from[i * a.from_stride + c];
    }
  }
  for (; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.columns; ++c) to[c * a.to_stride + r] = a.from[r * a.from_stride + c];
  }
}

void TransposePanelsOf(const F32TransposeArgs& a, float* transposed) {
  for (int64_t o = 0; o < a.outputs; o += kPanelColumns) {
    const float* const panel = a.w + o * a.in;
    const int64_t columns = std::min(kPanelColumns, a.outputs - o);
    float* to = transposed + o * kPanelColumns;
    for (int64_t i = 0; i < a.inputs; i += kPanelColumns, to += F32PanelElements(a.outputs)) {
      const float* const block = panel + (a.first_input + i) * kPanelColumns;
      const int64_t rows = std::min(kPanelColumns, a.in - a.first_input - i);
      for (int64_t k = 0; k < rows; ++k) {
        __builtin_prefetch(block + kFetchedPanelsAhead * F32PanelElements(a.in) + k * kPanelColumns);
      }
      if (rows < kPanelColumns) std::fill_n(to, columns * kPanelColumns, 0.0f);
      TransposeAll({block, kPanelColumns, rows, columns, kPanelColumns}, to);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(AllProducts);
HWY_EXPORT(TransposeAll);
HWY_EXPORT(TransposePanelsOf);

void PackF32Panels(const float* w, int64_t w_stride, int64_t out, int64_t in, float* panels) {
  for (int64_t c = 0; c < out; c += kPanelColumns, panels += F32PanelElements(in)) {
    const int64_t columns = std::min(kPanelColumns, out - c);
    if (columns < kPanelColumns) std::fill_n(panels, F32PanelElements(in), 0.0f);
    TransposeFloats({w + c * w_stride, w_stride, columns, in, kPanelColumns}, panels);
  }
}

void UnpackF32PanelColumn(const float* panels, int64_t column, int64_t in, float* w) {
  const float* const first = panels + column / kPanelColumns * F32PanelElements(in) + column % kPanelColumns;
  for (int64_t k = 0; k < in; ++k) w[k] = first[k * kPanelColumns];
}

void F32Products(const F32ProductArgs& args, float* y) { HWY_DYNAMIC_DISPATCH(AllProducts)(args, y); }

void PackF32Rows(const float* x, int64_t x_stride, int64_t rows, int64_t in, float* packed) {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(x + r * x_stride, in, packed + r * PanelRowFloats(in));
}

void TransposeFloats(const TransposeFloatsArgs& args, float* to) { HWY_DYNAMIC_DISPATCH(TransposeAll)(args, to); }

void TransposeF32Panels(const F32TransposeArgs& args, float* transposed) {
  HWY_DYNAMIC_DISPATCH(TransposePanelsOf)(args, transposed);
}

void TransposeF32Rows(const F32TransposeArgs& a, float* transposed) {
  constexpr int64_t kRowsAhead = 16;
  for (int64_t i = 0; i < a.inputs; i += kPanelColumns, transposed += F32PanelElements(a.outputs)) {
    const int64_t first = a.first_input + i, columns = std::min({kPanelColumns, a.in - first, a.inputs - i});
    const float* from = a.w + first;
    float* to = transposed;
    for (int64_t o = 0; o < a.outputs; ++o, from += a.in, to += kPanelColumns) {
      __builtin_prefetch(from + kRowsAhead * a.in);
      if (columns == kPanelColumns) {
        std::memcpy(to, from, kPanelColumns * sizeof(float));  // of a size that the compiler knows
      } else {
        std::fill(std::copy_n(from, columns, to), to + kPanelColumns, 0.0f);
      }
    }
  }
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
