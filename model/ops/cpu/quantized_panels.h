#pragma once

#include <cstddef>
#include <cstdint>

#include "model/ops/cpu/panel_kernels.h"
#include "model/quantization.h"

namespace lorad::cpu {

// Products of rows with quantised weights (model/quantization.h) in panels of 16 columns, as bf16's (panel_kernels.h).
//
//   panels [ceil(out / 16)] of QuantizedPanelBytes, one behind the other: for each group of 64 inputs a block of 64
//   bytes of factors and 32 words of two elements of each column.
//   int8   factors [16] f32 scales; words [32][16][2] bytes
//   int4   factors [16][2] bf16, scale and zero; words [8][16][2] of 16 bits, each the same element of 4 words, q + 8
//   fp8    as int8, but the factors once, before the first block
//
// What lies behind the last column and element is multiplied by nothing or by zeros. For each group the numbers are
// multiplied exactly and summed in f32, then scaled and added to the groups before: a result is the same bits whatever
// rows and columns are beside it. Raw pointers, strides in elements, bf16 is uint16_t; one thread.
inline constexpr int64_t kFactorBytes = 64;
inline constexpr int64_t kGroupWords = kQuantizedGroup / 2;
inline constexpr int64_t kQuadWords = 4;                  // that an int4 word of 16 bits holds a part of
constexpr int64_t QuadBytes(Quantization quantization) {  // of a panel
  return (quantization == Quantization::kInt4 ? kQuadWords : 2 * kQuadWords) * kPanelColumns;
}
// From a group to the next, of its words and of its factors: those of group g lie at kFactorBytes + g BlockBytes and at
// g FactorStride of a panel.
constexpr int64_t BlockBytes(Quantization quantization) {
  const int64_t words = kGroupWords / kQuadWords * QuadBytes(quantization);
  return quantization == Quantization::kFp8 ? words : kFactorBytes + words;
}
constexpr int64_t FactorStride(Quantization quantization) {
  return quantization == Quantization::kFp8 ? 0 : BlockBytes(quantization);
}
constexpr int64_t QuantizedPanelBytes(Quantization quantization, int64_t in) {
  const int64_t own_factors = quantization == Quantization::kFp8 ? kFactorBytes : 0;
  return own_factors + QuantizedGroups(in) * BlockBytes(quantization);
}

// The panel of w [columns, in], 16 columns or fewer; and W' of one column of it back: w [in].
void QuantizePanel(Quantization quantization, const float* w, int64_t columns, int64_t in, std::byte* panel);
void DequantizePanelColumn(Quantization quantization, const std::byte* panel, int64_t column, int64_t in, float* w);

// Rows as QuantizedDot reads them, each QuantizedRowFloats(in) behind the one before: the elements, zeros up to a whole
// group, then the sum of each group. bf16 stays bf16 where the processor multiplies it (bf16_products.h), else f32.
constexpr int64_t QuantizedRowElements(int64_t in) { return QuantizedGroups(in) * kQuantizedGroup; }
int64_t QuantizedRowFloats(int64_t in);
void PackQuantizedRows(const float* x, int64_t x_stride, int64_t rows, int64_t in, float* packed);
void PackQuantizedRows(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t in, float* packed);

// y[r, c] = sum_k x[r, k] W'[c, k] for the columns of some panels, of rows that were packed from y's type.
struct QuantizedDotArgs {
  Quantization quantization;
  const float* x;  // packed rows
  int64_t rows;
  int64_t in;
  const std::byte* panels;
  int64_t columns;  // the last panel may lack some
  int64_t y_stride;
};
void QuantizedDot(const QuantizedDotArgs& args, float* y);
void QuantizedDot(const QuantizedDotArgs& args, uint16_t* y);  // rounded

}  // namespace lorad::cpu
