#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "model/ops/cpu/f32_panels.h"
#include "model/ops/cpu/panel_kernels.h"
#include "model/ops/cpu/quantized_panels.h"

namespace lorad::cpu {

// A weight in panels, whatever its numbers are: f32 or bf16 (kNone), which multiplies rows of its own type, or
// quantised, which multiplies either. Rows are packed for it and give results of their own type.
struct PanelWeight {
  Quantization quantization = Quantization::kNone;
  int64_t in = 0;
  const void* panels = nullptr;
};

inline int64_t RowFloats(const PanelWeight& weight) {
  return weight.quantization == Quantization::kNone ? PanelRowFloats(weight.in) : QuantizedRowFloats(weight.in);
}

template <typename T>
void PackRows(const PanelWeight& weight, const T* x, int64_t x_stride, int64_t rows, float* packed) {
  if (weight.quantization != Quantization::kNone) return PackQuantizedRows(x, x_stride, rows, weight.in, packed);
  if constexpr (std::is_same_v<T, uint16_t>) {
    PackPanelRows(x, x_stride, rows, weight.in, packed);
  } else {
    PackF32Rows(x, x_stride, rows, weight.in, packed);
  }
}

// y [rows, columns] of the columns from first_column, a multiple of kPanelColumns, on.
template <typename T>
void DotColumns(const PanelWeight& weight, const float* x, int64_t rows, int64_t first_column, int64_t columns,
                int64_t y_stride, T* y) {
  const int64_t panel = first_column / kPanelColumns;
  if (weight.quantization != Quantization::kNone) {
    const std::byte* const first =
        static_cast<const std::byte*>(weight.panels) + panel * QuantizedPanelBytes(weight.quantization, weight.in);
    return QuantizedDot({weight.quantization, x, rows, weight.in, first, columns, y_stride}, y);
  }
  if constexpr (std::is_same_v<T, uint16_t>) {
    const uint16_t* const first = static_cast<const uint16_t*>(weight.panels) + panel * PanelElements(weight.in);
    PanelDot({x, rows, weight.in, first, columns, y_stride}, y);
  } else {
    const float* const first = static_cast<const float*>(weight.panels) + panel * F32PanelElements(weight.in);
    F32Products({{x, RowFloats(weight), rows}, weight.in, {first, weight.in, columns}, y_stride, /*add=*/false}, y);
  }
}

}  // namespace lorad::cpu
