#include "model/ops/cpu/panel_kernels.h"

#include <algorithm>
#include <cstring>

#include "model/ops/cpu/bf16.h"
#include "model/ops/cpu/bf16_panels.h"
#include "model/ops/cpu/bf16_products.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/ops/cpu/panel_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "model/ops/cpu/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

inline constexpr int kTileRows = kLanes >= 16 ? 8 : kLanes == 8 ? 4 : 2;  // whose sums stay in registers

HWY_INLINE void PutColumns(const VF (&sums)[kPanelVectors], int64_t columns, uint16_t* y) {
  alignas(64) uint32_t rounded[kPanelColumns];  // the bf16 in the upper half
  for (int v = 0; v < kPanelVectors; ++v) hn::StoreU(RoundToBf16(sums[v]), DU(), rounded + v * kLanes);
  for (int64_t c = 0; c < columns; ++c) y[c] = static_cast<uint16_t>(rounded[c] >> 16);
}
HWY_INLINE void PutColumns(const VF (&sums)[kPanelVectors], int64_t columns, float* y) {
  alignas(64) float all[kPanelColumns];
  for (int v = 0; v < kPanelVectors; ++v) hn::StoreU(sums[v], DF(), all + v * kLanes);
  for (int64_t c = 0; c < columns; ++c) y[c] += all[c];
}

// R rows against one panel, of which y has `columns`.
template <int R, typename Y>
HWY_INLINE void PanelTile(const PanelDotArgs& a, int64_t r, const uint16_t* panel, int64_t columns, Y* y) {
  const int64_t stride = PanelRowFloats(a.in);
  VF acc[R][kPanelVectors];
  PanelSums<R>(a.x + r * stride, stride, panel, PanelWords(a.in), acc);
  for (int i = 0; i < R; ++i) PutColumns(acc[i], columns, y + (r + i) * a.y_stride);
}

template <typename Y>
HWY_INLINE void PanelDotT(const PanelDotArgs& a, Y* y) {
  for (int64_t c = 0; c < a.columns; c += kPanelColumns) {
    const uint16_t* panel = a.panels + c / kPanelColumns * PanelElements(a.in);
    const int64_t columns = std::min(kPanelColumns, a.columns - c);
    int64_t r = 0;
    for (; r + kTileRows <= a.rows; r += kTileRows) PanelTile<kTileRows>(a, r, panel, columns, y + c);
    for (; r < a.rows; ++r) PanelTile<1>(a, r, panel, columns, y + c);
  }
}
void PanelDotRounded(const PanelDotArgs& a, uint16_t* y) { PanelDotT(a, y); }
void PanelDotAdded(const PanelDotArgs& a, float* y) { PanelDotT(a, y); }

// f32 in the elements' own order, zeros behind them.
void PackPanelRowsT(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t in, float* packed) {
  for (int64_t r = 0; r < rows; ++r, x += x_stride, packed += PanelRowFloats(in)) {
    for (int64_t k = 0; k < in; ++k) packed[k] = Widen(x[k]);
    std::fill(packed + in, packed + 2 * PanelWords(in), 0.0f);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(PanelDotRounded);
HWY_EXPORT(PanelDotAdded);
HWY_EXPORT(PackPanelRowsT);

void PackPanels(const uint16_t* w, int64_t out, int64_t in, uint16_t* panels) {
  if (out % kPanelColumns != 0 || in % 2 != 0) std::fill_n(panels, Panels(out) * PanelElements(in), uint16_t{0});
  for (int64_t c = 0; c < out; ++c, w += in) {
    uint16_t* const column = panels + FirstOfColumn(c, in);
    for (int64_t k = 0; k < in; k += 2) {
      std::memcpy(column + k * kPanelColumns, w + k, std::min<size_t>(2, in - k) * sizeof(uint16_t));
    }
  }
}

void UnpackPanelColumn(const uint16_t* panels, int64_t column, int64_t in, uint16_t* w) {
  const uint16_t* const from = panels + FirstOfColumn(column, in);
  for (int64_t k = 0; k < in; k += 2) {
    std::memcpy(w + k, from + k * kPanelColumns, std::min<size_t>(2, in - k) * sizeof(uint16_t));
  }
}

// A cache line more than the row takes: rows of 4 KiB would share a set of the cache.
int64_t PanelRowFloats(int64_t in) {
  return (PanelWords(in) * 2 + kPanelColumns - 1) / kPanelColumns * kPanelColumns + kPanelColumns;
}

void PackPanelRows(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t in, float* packed) {
  if (!HasBf16Products()) return HWY_DYNAMIC_DISPATCH(PackPanelRowsT)(x, x_stride, rows, in, packed);
  for (int64_t r = 0; r < rows; ++r, x += x_stride, packed += PanelRowFloats(in)) {
    uint16_t* const row = reinterpret_cast<uint16_t*>(packed);
    std::memcpy(row, x, static_cast<size_t>(in) * sizeof(uint16_t));
    if (in % 2 != 0) row[in] = 0;
  }
}

void PanelDot(const PanelDotArgs& args, uint16_t* y) {
  if (HasBf16Products()) return PanelDotBf16Products(args, y);
  HWY_DYNAMIC_DISPATCH(PanelDotRounded)(args, y);
}
void AddPanelDot(const PanelDotArgs& args, float* y) {
  if (HasBf16Products()) return AddPanelDotBf16Products(args, y);
  HWY_DYNAMIC_DISPATCH(PanelDotAdded)(args, y);
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
