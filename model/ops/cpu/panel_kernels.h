#pragma once

#include <cstdint>

namespace lorad::cpu {

// Products of rows with bf16 weights that lie in panels: 16 columns each, of which the same word (two elements) lies
// side by side.
//
//   panels [ceil(out / 16)][ceil(in / 2)][16] words of two bf16, zeros behind the last column and element
//
// A vector holds 16 columns, so that no sum crosses lanes, and weights are read once from front to back for up to 24
// rows. Each sum runs over the words in order, one accumulator each: a result is the same bits whatever rows and
// columns are beside it. Raw pointers, strides in elements, bf16 is uint16_t; one thread.
inline constexpr int64_t kPanelColumns = 16;
constexpr int64_t Panels(int64_t out) { return (out + kPanelColumns - 1) / kPanelColumns; }
constexpr int64_t PanelWords(int64_t in) { return (in + 1) / 2; }
constexpr int64_t PanelElements(int64_t in) { return PanelWords(in) * 2 * kPanelColumns; }  // of one panel

constexpr int64_t FirstOfColumn(int64_t column, int64_t in) {  // element; its next words are a panel's width apart
  return column / kPanelColumns * PanelElements(in) + column % kPanelColumns * 2;
}

// w [out, in], and a row of it back: w [in].
void PackPanels(const uint16_t* w, int64_t out, int64_t in, uint16_t* panels);
void UnpackPanelColumn(const uint16_t* panels, int64_t column, int64_t in, uint16_t* w);

// Rows as PanelDot reads them, each PanelRowFloats(in) behind the one before: f32, or bf16 where the processor
// multiplies it (bf16_products.h).
int64_t PanelRowFloats(int64_t in);
void PackPanelRows(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t in, float* packed);

// y[r, c] = sum_k x[r, k] w[c, k], rounded, for the columns of some panels.
struct PanelDotArgs {
  const float* x;  // packed rows
  int64_t rows;
  int64_t in;
  const uint16_t* panels;
  int64_t columns;  // the last panel may lack some
  int64_t y_stride;
};
void PanelDot(const PanelDotArgs& args, uint16_t* y);
void AddPanelDot(const PanelDotArgs& args, float* y);  // y += the sums as they are

}  // namespace lorad::cpu
