#pragma once

#include <cstdint>

#include "model/ops/cpu/panel_kernels.h"

namespace lorad::cpu {

// Products of f32 rows with f32 numbers of which 16 columns lie side by side. One thread; strides in elements.
//
//   y[r, c] (+)= sum over k of x[r, k] w(k, c),   w(k, c) = w[c / 16][k][c % 16]
//
// A weight [out, in] is kept in panels: [ceil(out / 16)][in][16], zeros behind the last column. A sum takes kF32Block
// products at a time into one accumulator, in order, and adds the blocks in order: a result is the same bits whatever
// rows and columns are beside it, and however many whole blocks a call is given.
inline constexpr int64_t kF32Block = 512;
constexpr int64_t F32PanelElements(int64_t in) { return in * kPanelColumns; }  // of one panel
constexpr int64_t F32WeightElements(int64_t out, int64_t in) { return Panels(out) * F32PanelElements(in); }

// The panels of w [out, in], whose rows lie w_stride apart; and a column of them back: w [in].
void PackF32Panels(const float* w, int64_t w_stride, int64_t out, int64_t in, float* panels);
void UnpackF32PanelColumn(const float* panels, int64_t column, int64_t in, float* w);

struct F32Rows {
  const float* first;
  int64_t stride;
  int64_t rows;
};
// [ceil(columns / 16)][depth][16]; from some k on, if fewer products are summed than the panels are deep.
struct F32Columns {
  const float* panels;
  int64_t depth;
  int64_t columns;  // 16 of the last panel are read, too
};
struct F32ProductArgs {
  F32Rows x;
  int64_t depth;  // of the sums
  F32Columns w;
  int64_t y_stride;
  bool add;  // to what y holds
};
void F32Products(const F32ProductArgs& args, float* y);

// Rows with a stride that leaves each in sets of the cache of its own (PanelRowFloats): packed [rows].
void PackF32Rows(const float* x, int64_t x_stride, int64_t rows, int64_t in, float* packed);

// to[c, r] = from[r, c]
struct TransposeFloatsArgs {
  const float* from;
  int64_t from_stride;
  int64_t rows;
  int64_t columns;
  int64_t to_stride;
};
void TransposeFloats(const TransposeFloatsArgs& args, float* to);

// The panels of W^T for the products of a backward: of `inputs` inputs from first_input, a multiple of kPanelColumns,
// on, and of `outputs` outputs that begin with w: in panels of `in` inputs, or in rows of `in`.
//
//   transposed [ceil(inputs / 16)][outputs][16], zeros or inputs that were not asked for behind the last input
struct F32TransposeArgs {
  const float* w;
  int64_t in;
  int64_t outputs;
  int64_t first_input;
  int64_t inputs;
};
void TransposeF32Panels(const F32TransposeArgs& args, float* transposed);
void TransposeF32Rows(const F32TransposeArgs& args, float* transposed);

}  // namespace lorad::cpu
